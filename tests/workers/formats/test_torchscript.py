"""TorchScript as people save it: declared, run, turned into ONNX with its control flow, and refused where it is hostile."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from app.errors import (
    InvalidModel,
    SignatureMismatch,
    UnsupportedOperator,
)
from app.models.schemas import read_signature
from tests.workers.formats.scripts import old, opened, saved
from tests.workers.formats.uploads import inspected, package_file
from workers.torch.script import OpenedScript

LEAST_SQNR_DB = 90
SILERO = package_file("silero_vad", "data/silero_vad.jit")


class Cnn(nn.Module):
    """Convolutions with a batch norm that has seen something."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)
        )
        self.head = nn.Linear(8, 5)
        nn.init.uniform_(self.body[1].running_mean, -1, 1)
        nn.init.uniform_(self.body[1].running_var, 0.5, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.head(self.body(image / 2).mean([2, 3])), -1)


class Recurrent(nn.Module):
    """A cell in a loop over the sequence, and a branch that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, sequence: torch.Tensor, gain: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        state = torch.zeros(sequence.size(0), 6)
        memory = torch.zeros(sequence.size(0), 6)
        for step in range(sequence.size(1)):
            state, memory = self.cell(sequence[:, step], (state, memory))
        if bool(sequence.sum() > 0):
            state = torch.relu(state) + 1
        return self.head(state) * gain, memory


class Encoder(nn.Module):
    """A transformer of token ids, with a mask that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.LayerNorm(16)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        x = self.embedding(tokens)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 4.0
        if mask is not None:
            scores = scores + (1.0 - mask.unsqueeze(1).to(torch.float32)) * -10000.0
        x = self.norm(x + torch.softmax(scores, -1) @ self.value(x))
        return {"encoded": x, "pooled": x.mean(1)}


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str], dict[str, list[Any]], set[str]]] = {
    "cnn": (
        Cnn, ["image:float32:batch,3,height,width"], {"output": ["batch", 5]}, set(),
    ),
    "lstm": (
        Recurrent, ["sequence:float32:batch,time,4"], {"output_0": ["batch", 2], "output_1": ["batch", 6]}, {"Loop", "If"},
    ),
    "lstm with a number": (
        Recurrent,
        ["gain:float32:", "sequence:float32:batch,time,4"],
        {"output_0": ["batch", 2], "output_1": ["batch", 6]},
        {"Loop", "If"},
    ),
    "transformer": (
        Encoder, ["tokens:int64:batch,length"], {"encoded": ["batch", None, 16], "pooled": ["batch", 16]}, set(),
    ),
    "transformer with a mask": (
        Encoder,
        ["tokens:int64:batch,length", "mask:int64:batch,length"],
        {"encoded": ["batch", None, 16], "pooled": ["batch", 16]},
        set(),
    ),
}  # fmt: skip


def feeds_of(model: OpenedScript, seed: int, **sizes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for entry in model.inputs:
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in entry["shape"]]
        values = rng.integers(0, 2, shape) if "int" in entry["dtype"] else rng.standard_normal(shape)
        feeds[entry["name"]] = np.asarray(values, entry["dtype"])
    return feeds


def follows(model: OpenedScript, folder: Path, *feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The ONNX of a model has its signature and gives what it gives."""
    path = model.to_onnx(folder).path
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for mine, theirs in ((model.inputs, session.get_inputs()), (model.outputs, session.get_outputs())):
        assert [entry["name"] for entry in mine] == [value.name for value in theirs]
        for entry, value in zip(mine, theirs, strict=True):
            assert entry["shape"] == [
                own and other for own, other in zip(entry["shape"], value.shape, strict=True)
            ]
    for given in feeds:
        wanted = model.run(given)
        for value, got in zip(session.get_outputs(), session.run(None, given), strict=True):
            noise = np.square(wanted[value.name].astype(np.float64) - got).sum()
            signal = np.square(wanted[value.name].astype(np.float64)).sum()
            assert noise == 0 or 10 * np.log10(signal / noise) > LEAST_SQNR_DB
    return onnx.load(path)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_runs_and_becomes_onnx(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    make, signature, outputs, kept = NETWORKS[name]
    network = make()
    model = opened(saved(network, tmp_path / "model.pt"), *signature)
    assert {entry["name"]: entry["shape"] for entry in model.outputs} == outputs
    (tmp_path / "onnx").mkdir()
    sizes = [
        {"batch": 2, "time": 5, "length": 7, "height": 20, "width": 31},
        {"batch": 3, "time": 9, "length": 4, "height": 33, "width": 18},
    ]
    given = [feeds_of(model, seed, **size) for seed, size in enumerate(sizes)]
    if "sequence" in given[0]:  # both branches
        given = [{**one, "sequence": sign * np.abs(one["sequence"])} for one in given for sign in (-1, 1)]
    proto = follows(model, tmp_path / "onnx", *given)
    assert kept <= {node.op_type for node in proto.graph.node}
    wanted = network(**{key: torch.from_numpy(value) for key, value in given[0].items()})
    first = (
        wanted
        if isinstance(wanted, torch.Tensor)
        else next(iter(wanted.values() if isinstance(wanted, dict) else wanted))
    )
    np.testing.assert_allclose(
        model.run(given[0])[model.outputs[0]["name"]], first.detach().numpy(), atol=1e-5
    )


def test_both_branches_differ(tmp_path: Path) -> None:
    """The branch was not fixed when the module was looked at."""
    model = opened(saved(Recurrent(), tmp_path / "model.pt"), "sequence:float32:batch,time,4")
    sequence = np.full((1, 2, 4), 1e-3, np.float32)
    up, down = (model.run({"sequence": sign * sequence})["output_0"] for sign in (1, -1))
    assert np.abs(up - down).max() > 0.1


def test_a_traced_module_keeps_its_free_sizes(tmp_path: Path) -> None:
    with old():
        torch.jit.trace(Cnn().eval(), torch.rand(1, 3, 16, 16)).save(str(tmp_path / "model.jit"))
    model = opened(tmp_path / "model.jit", "image:float32:n,3,h,w")
    (tmp_path / "onnx").mkdir()
    proto = follows(
        model, tmp_path / "onnx", feeds_of(model, 1, n=1, h=16, w=16), feeds_of(model, 2, n=4, h=40, w=19)
    )
    assert [dim.dim_param for dim in proto.graph.input[0].type.tensor_type.shape.dim] == ["n", "", "h", "w"]


def test_torchs_own_encoder_becomes_onnx_without_its_fast_paths(tmp_path: Path) -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder(x)

    torch.manual_seed(0)
    model = opened(saved(Stack(), tmp_path / "model.pt"), "x:float32:batch,time,16")
    (tmp_path / "onnx").mkdir()
    given = [
        feeds_of(model, seed, batch=batch, time=time)
        for seed, batch, time in ((1, 2, 5), (2, 3, 11), (3, 1, 1))
    ]
    follows(model, tmp_path / "onnx", *given)


def test_a_bidirectional_lstm_becomes_onnx(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 8, batch_first=True, bidirectional=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(x)[0] * 2

    model = opened(saved(Both(), tmp_path / "model.pt"), "x:float32:batch,time,8")
    (tmp_path / "onnx").mkdir()
    follows(
        model, tmp_path / "onnx", feeds_of(model, 1, batch=2, time=5), feeds_of(model, 2, batch=3, time=11)
    )


def test_names_that_were_declared_for_outputs_hold(tmp_path: Path) -> None:
    said = '{"inputs": [{"name": "sequence", "dtype": "float32", "shape": [2, 3, 4]}], "outputs": [%s]}'
    entry = '{"name": "%s", "dtype": "float32", "shape": []}'
    file = saved(Recurrent(), tmp_path / "model.pt")
    model = opened(file, said % ", ".join(entry % name for name in ("scores", "memory")))
    assert [(one["name"], one["shape"]) for one in model.outputs] == [("scores", [2, 2]), ("memory", [2, 6])]
    with pytest.raises(InvalidModel, match="2 outputs, 1 were named"):
        opened(file, said % (entry % "scores"))


def test_what_a_module_is(tmp_path: Path) -> None:
    facts = opened(saved(Cnn(), tmp_path / "m.pt"), "image:float32:1,3,16,16").facts
    assert facts["module"] == "Cnn"
    assert facts["parameters"] == sum(value.numel() for value in Cnn().parameters())
    assert facts["dtypes"] == {"float32": facts["parameters"] + 16, "int64": 1}
    assert facts["arguments"] == {"image": "Tensor"}


@pytest.mark.parametrize(
    ("make", "form"),
    [
        pytest.param(Cnn, "--signature image:float32:batch,3,224,224", id="cnn"),
        pytest.param(Encoder, "--signature tokens:int64:batch,sequence", id="tokens"),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(7, 2)), "--signature input:float32:batch,7", id="linear"
        ),
        pytest.param(
            lambda: nn.Conv1d(4, 4, 3, groups=2), "--signature input:float32:batch,4,time", id="groups"
        ),
        pytest.param(
            lambda: nn.Sequential(nn.LSTM(5, 3)), "--signature input:float32:batch,sequence,5", id="lstm"
        ),
    ],
)
def test_a_missing_signature_is_answered_with_the_form_for_this_model(
    make: Callable[[], nn.Module], form: str, tmp_path: Path
) -> None:
    file = saved(make(), tmp_path / "model.pt")
    with pytest.raises(SignatureMismatch, match="declare them") as caught:
        opened(file)
    assert form in str(caught.value.hint)
    assert caught.value.param == "signature"
    told = [part.split(" ")[0].rstrip(";") for part in str(caught.value.hint).split("--signature ")[1:]]
    assert opened(file, *told).outputs


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        (["picture:float32:1,3,16,16"], "no argument of `forward`, which takes 'image'"),
        (["image:float32:1,4,16,16"], "to have 3 channels, but got 4"),
        (["image:float32:batch,3"], "Expected 3D .* or 4D"),
        (["image:int32:1,3,16,16", "image:float32:1,3,16,16"], "declared twice"),
        (["image:complex64:1,3,16,16"], "complex64"),
        (["image:float32:0,3,16,16"], "less than 1"),
    ],
    ids=["name", "channels", "rank", "twice", "dtype", "empty"],
)
def test_a_wrong_signature_is_refused_with_the_reason(
    signature: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(SignatureMismatch, match=said) as caught:
        opened(saved(Cnn(), tmp_path / "model.pt"), *signature)
    assert "--signature image:float32:batch,3,224,224" in str(caught.value.hint)


def test_numbers_are_declared_without_dimensions(tmp_path: Path) -> None:
    file = saved(Recurrent(), tmp_path / "model.pt")
    with pytest.raises(SignatureMismatch, match="gain:float32:"):
        opened(file, "sequence:float32:2,3,4", "gain:int64:")
    with pytest.raises(SignatureMismatch, match="needs 'sequence' too"):
        opened(file, "gain:float32:")


def test_wrong_feeds_are_refused(tmp_path: Path) -> None:
    model = opened(saved(Cnn(), tmp_path / "model.pt"), "image:float32:batch,3,height,width")
    with pytest.raises(SignatureMismatch, match="image"):
        model.run({"image": np.zeros((1, 3, 16), np.float32)})
    with pytest.raises(
        SignatureMismatch, match=r"Kernel size .* \(torch/nn/modules/conv.py:\d+\)|test_torchscript.py"
    ):
        model.run({"image": np.zeros((1, 3, 1, 1), np.float32)})


def test_it_is_not_trained(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperator, match="trained") as caught:
        opened(saved(Cnn(), tmp_path / "model.pt"), "image:float32:1,3,16,16").to_torch()
    assert "torch.export.save(program, 'model.pt2')" in str(caught.value.hint)


def test_a_frozen_module_works_too(tmp_path: Path) -> None:
    with old(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        torch.jit.freeze(torch.jit.script(Cnn().eval())).save(str(tmp_path / "model.pt"))
    model = opened(tmp_path / "model.pt", "image:float32:batch,3,16,16")
    (tmp_path / "onnx").mkdir()
    follows(model, tmp_path / "onnx", feeds_of(model, 1, batch=3))
    with pytest.raises(UnsupportedOperator):
        model.to_torch()


def test_an_operator_without_onnx_is_named_with_its_line(tmp_path: Path) -> None:
    class Special(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.igamma(x, x)

    model = opened(saved(Special(), tmp_path / "model.pt"), "x:float32:2,3")
    (tmp_path / "onnx").mkdir()
    with pytest.raises(UnsupportedOperator, match="igamma") as caught:
        model.to_onnx(tmp_path / "onnx")
    assert "aten::igamma at " in str(caught.value.node)
    assert "test_torchscript.py:" in str(caught.value.node)


def test_arguments_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    class Many(nn.Module):
        def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
            return xs[0]

    with pytest.raises(InvalidModel, match=r"'xs' of `forward` is a List\[Tensor\]"):
        opened(saved(Many(), tmp_path / "model.pt"), "xs:float32:2")


def test_state_between_calls_is_refused(tmp_path: Path) -> None:
    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * self.calls

    class Writes(nn.Module):
        total: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total.add_(x.sum(0))
            return x + self.total

    for network, name in ((Sets(), "calls"), (Writes(), "total")):
        with pytest.raises(InvalidModel, match=f"from one call to the next, in '{name}'"):
            opened(saved(network, tmp_path / "model.pt"), "x:float32:batch,3")


def test_silero_is_refused_for_its_state_and_the_network_inside_is_taken(tmp_path: Path) -> None:
    """The published module keeps the state of its LSTM; the network inside takes and gives it."""
    with pytest.raises(SignatureMismatch, match=r"'x' \(Tensor\), 'sr' \(int\)") as missing:
        opened(SILERO)
    assert "--signature sr:int64:" in str(missing.value.hint)
    with pytest.raises(InvalidModel, match="'_state'"):
        opened(SILERO, "x:float32:batch,512", "sr:int64:")
    with old():
        torch.jit.load(str(SILERO))._model.save(str(tmp_path / "inner.pt"))
    model = opened(tmp_path / "inner.pt", "x:float32:batch,576", "state:float32:2,batch,128")
    assert [entry["shape"] for entry in model.outputs] == [[None, 1], [2, None, 128]]
    (tmp_path / "onnx").mkdir()
    follows(model, tmp_path / "onnx", feeds_of(model, 1, batch=1), feeds_of(model, 2, batch=3))


def test_an_upload_is_inspected_as_torchscript(tmp_path: Path) -> None:
    file = saved(nn.Linear(4, 3), tmp_path / "upload.bin")
    found = inspected(file, declared={"signature": read_signature(["input:float32:batch,4"]).model_dump()})
    assert found["format"] == "torchscript"
    assert found["signature"]["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["batch", 3]}]
    assert found["facts"]["conversions"]["onnx"]["checked"]
    assert found["facts"]["producer"] == "TorchScript"
