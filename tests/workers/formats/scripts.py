"""TorchScript files, and what opens them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from app.models.schemas import read_signature
from workers.formats import registry
from workers.formats.base import Source
from workers.torch.script import OpenedScript


@contextmanager
def old() -> Iterator[None]:
    """TorchScript says of itself that it is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="enable_nested_tensor", category=UserWarning)
        yield


def saved(network: nn.Module, path: Path) -> Path:
    """A network's file, scripted."""
    with old():
        torch.jit.script(network.eval()).save(str(path))
    return path


def opened(path: Path, *signature: str) -> OpenedScript:
    """The file, recognized and opened with a declared signature."""
    format_ = registry.alone("torchscript")
    assert format_.recognizes(path)
    said = {"signature": read_signature(list(signature)).model_dump()} if signature else {}
    found = format_.open(Source(path.parent, path.name, said))
    assert isinstance(found, OpenedScript)
    return found
