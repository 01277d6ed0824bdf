"""The networks of the pytorchcv package by name: found without importing them all, made by a text like `resnet18(num_classes=10)`."""

import ast
import difflib
import importlib
import importlib.util
import inspect
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from app.errors import InvalidParams
from app.text import first_line, plain

PARAM = "architecture"
FORM = "give `architecture` as a name of the pytorchcv package, with arguments where it needs some: `resnet18`, `mobilenetv2_w1(num_classes=10)`"
_PACKAGE = "pytorchcv"
_MOST_CHARS = 1000
_NEAREST = 5
_REFUSED = frozenset({"pretrained", "root", "model_name"})  # they fetch weights


@dataclass(frozen=True)
class Architecture:
    """A network's name and the arguments that it is made with."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        given = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"{self.name}({given})" if given else self.name

    def build(self) -> torch.nn.Module:
        """The network with random weights, in eval mode.

        Raises:
            InvalidParams: there is none of that name, or it does not take these arguments.
        """
        factory = _factory(self.name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old ways to initialize weights, which are replaced
                network = factory(**self.arguments)
        except MemoryError:
            raise
        except Exception as error:  # a network may raise anything for arguments that it does not take
            raise InvalidParams(
                f"{plain(str(self), 200)} cannot be made: {_sentence(error)}",
                param=PARAM,
                hint=f"its arguments are {', '.join(_arguments(factory))}",
            ) from error
        if not isinstance(network, torch.nn.Module):
            raise InvalidParams(f"{self.name!r} is no network", param=PARAM, hint=FORM)
        return network.eval()


def parse(text: str) -> Architecture:
    """A name and keyword arguments: numbers, texts, truth values, and tuples of them.

    Raises:
        InvalidParams: it is something else, or there is no network of that name.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body if len(text) <= _MOST_CHARS else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    call = tree if isinstance(tree, ast.Call) else None
    named = call.func if call else tree
    if not isinstance(named, ast.Name) or (call and call.args):
        raise InvalidParams(f"the architecture is no name: {plain(text, 200)!r}", param=PARAM, hint=FORM)
    _factory_file(named.id)
    arguments = {}
    for keyword in call.keywords if call else ():
        if keyword.arg is None or keyword.arg in _REFUSED or keyword.arg in arguments:
            raise InvalidParams(
                f"the architecture's argument {keyword.arg or '**'!r} is not taken", param=PARAM, hint=FORM
            )
        arguments[keyword.arg] = _value(keyword)
    return Architecture(named.id, arguments)


def nearest(name: str) -> list[str]:
    """The names most like one."""
    return difflib.get_close_matches(name.lower(), names(), _NEAREST, 0.5)


@cache
def names() -> dict[str, str]:
    """The module by the name of each network, read from the package's list: importing that needs torchvision."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("pytorchcv is not installed")
    source = (Path(spec.submodule_search_locations[0]) / "model_provider.py").read_text(encoding="utf-8")
    imported: dict[str, str] = {}
    listed: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {one.asname or one.name: node.module for one in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            listed |= {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
    return {name: f"{_PACKAGE}.{imported[name]}" for name in sorted(listed & imported.keys())}


def producer() -> str:
    """The package and its version."""
    return f"{_PACKAGE} {version(_PACKAGE)}"


def _factory_file(name: str) -> str:
    if (module := names().get(name)) is not None:
        return module
    like = nearest(name)
    raise InvalidParams(
        f"pytorchcv has no network {plain(name, 100)!r}",
        param=PARAM,
        hint=f"did you mean {', '.join(like)}?" if like else FORM,
    )


def _factory(name: str) -> Any:
    module = _factory_file(name)
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise InvalidParams(
            f"{name!r} needs a package that is not installed: {plain(str(error), 200)}",
            param=PARAM,
            hint="export the network to ONNX or `.pt2` instead",
        ) from error


def _value(keyword: ast.keyword) -> Any:
    try:
        value = ast.literal_eval(keyword.value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        value = None
    if not _is_plain(value):
        raise InvalidParams(
            f"the architecture's argument {keyword.arg!r} is no number, text, truth value or tuple of them",
            param=PARAM,
            hint=FORM,
        )
    return value


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str) or (
        isinstance(value, tuple) and all(_is_plain(one) for one in value)
    )


def _arguments(factory: Any) -> list[str]:
    """The names that a factory takes: most hand `**kwargs` to a network that takes these three."""
    taken = [
        name
        for name, one in inspect.signature(factory).parameters.items()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and name not in _REFUSED
    ]
    return list(dict.fromkeys([*taken, "in_channels", "in_size", "num_classes"]))


def _sentence(error: BaseException) -> str:
    """An error in a line; an assertion mostly says no more than its source does."""
    line = first_line(str(error))
    place = traceback.extract_tb(error.__traceback__)
    source = (place[-1].line or "") if place else ""
    return plain(f"{type(error).__name__}: {line or source}", 300)
