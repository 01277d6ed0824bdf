"""The network of a program as training takes it: with real layers, and for batches of any size."""

from pathlib import Path

from workers.torch.lift import lift
from workers.torch.model import TorchModel
from workers.torch.program import export, load_program, save_program
from workers.training.rebatch import rebatched
from workers.training.weights import load_trained


def open_network(path: Path) -> TorchModel:
    """The network of a `.pt2` in eval mode; its signature has a free first axis everywhere.

    Raises:
        InvalidModel: it takes batches of one size only, and does not run with others.
        UnsupportedOperator: see `lift`.
    """
    program = load_program(path)
    return rebatched(TorchModel(lift(program.program), program.inputs, program.outputs))


def save_trained(source: Path, weights: Path, target: Path) -> None:
    """Write the program of a `.pt2` with the weights that training left (`rank.train`), its signature as it was.

    Raises:
        InvalidModel, UnsupportedOperator: see `export`.
    """
    program = load_program(source)
    model = TorchModel(lift(program.program), program.inputs, program.outputs)
    load_trained(model.module, weights)
    save_program(export(model), program.inputs, program.outputs, target)
