"""Recurrent layers of PyTorch as programs and as ONNX, whatever the length."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from workers.torch.exporting import export
from workers.torch.model import TorchModel
from workers.torch.recurrent import recurrent_whole
from workers.torch.to_onnx import program_to_onnx


class Recurrent(torch.nn.Module):
    """Two layers in two directions, then one that has time first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.second = torch.nn.GRU(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, (hidden, _) = self.first(x)
        found, _ = self.second(states.transpose(0, 1))
        return torch.cat([found[-1], hidden[-1]], dim=-1)


def test_a_free_length_stays_free(tmp_path: Path) -> None:
    torch.manual_seed(5)
    module = Recurrent().eval()
    inputs = ({"name": "x", "dtype": "float32", "shape": ["batch", "length", 4]},)
    outputs = ({"name": "y", "dtype": "float32", "shape": ["batch", 8]},)
    program = export(TorchModel(module, inputs, outputs))
    made = program_to_onnx(program, inputs, outputs, tmp_path)
    operators = Counter(node.op_type for node in made.load_onnx().graph.node)
    assert (operators["LSTM"], operators["GRU"]) == (2, 1)
    session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
    for batch, length in ((1, 3), (4, 17)):
        x = torch.randn(batch, length, 4)
        wanted = module(x).detach().numpy()
        np.testing.assert_allclose(program.module()(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], wanted, rtol=1e-5, atol=1e-6)


def test_afterwards_torch_is_as_it_was() -> None:
    operator = torch.ops.aten.lstm.input
    before = dict(operator.py_kernels)
    with recurrent_whole():
        assert operator.py_kernels != before
    assert operator.py_kernels == before
