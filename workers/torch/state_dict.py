"""A state dict and the architecture that it was trained in: unwrapped, held against it key by key, loaded."""

import pickle
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from app.errors import InvalidModel, InvalidParams, UnsafeModel
from app.text import first_line, plain
from workers.torch import zoo
from workers.torch.model import TorchModel, dtype_name
from workers.torch.opened import OpenedTorch, with_outputs
from workers.torch.weights import Unfit, check_dtypes, read_safetensors, unfit
from workers.torch.zoo import Architecture

Weights = dict[str, torch.Tensor]

_SAVE_AGAIN = "save it again where it was trained: `torch.save(model.state_dict(), 'weights.pth')`"
_INSIDE = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
)  # of a checkpoint
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")  # of wrappers
_MOST_WRAPPERS = 5
# guessed from, where no architecture was named
_COMMON = (
    "resnet10", "resnet14", "resnet18", "resnet34", "resnet50", "resnet101", "resnet20_cifar10", "resnet56_cifar10",
    "preresnet18", "preresnet50", "seresnet18", "seresnet50", "resnext50_32x4d", "mobilenet_w1", "mobilenet_wd4",
    "mobilenetv2_w1", "mobilenetv2_wd2", "mobilenetv2_wd4", "mobilenetv3_large_w1", "mobilenetv3_small_w1",
    "shufflenet_g1_w1", "shufflenetv2_w1", "shufflenetv2_wd2", "efficientnet_b0", "efficientnet_b1", "mnasnet_b1",
    "ghostnet", "squeezenet_v1_1", "densenet121", "vgg11", "vgg16", "regnetx002",
)  # fmt: skip
_GUESSES = 3
_ALIKE = 0.9  # the share of weights that have their name and shape in a network that is worth a guess
_ELSEWHERE = (
    "they may be of the same network from another package (torchvision, timm) or of your own: upload the network itself, as "
    "`.pt2` (`torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')`)"
)


def opened(path: Path, declared: Mapping[str, Any], *, safetensors: bool) -> OpenedTorch:
    """The architecture that was declared, with the weights of a file.

    Raises:
        InvalidParams: no architecture was declared, or it cannot be made.
        UnsafeModel: the file holds more than tensors.
        InvalidModel: it is damaged, or its weights are not those of the architecture.
        UnsupportedFormat: the weights are quantized.
    """
    weights, notes = read_safetensors([path]) if safetensors else None, list[str]()
    if weights is None:
        weights, notes = _read_checkpoint(path)
    if (text := declared.get("architecture")) is None:
        raise _missing(weights)
    architecture = zoo.parse(text)
    network = architecture.build()
    needed = network.state_dict()
    weights, stripped = _without_wrappers(weights, needed)
    if (found := _unfit(weights, needed)) is not None:
        raise _unfitting(found, architecture, needed, weights)
    dtypes = sorted({dtype_name(value.dtype) for value in weights.values()})
    network.load_state_dict(weights, strict=False)  # held against it above; counts of batches may be missing
    inputs = (_input(network, architecture, declared),)
    names = [entry["name"] for entry in (declared.get("signature") or {}).get("outputs", [])]
    model = with_outputs(TorchModel(network, inputs, ()), names or None)
    facts = {
        "producer": zoo.producer(),
        "architecture": architecture.name,
        "arguments": {key: _listed(value) for key, value in architecture.arguments.items()},
        "parameters": sum(value.numel() for value in network.parameters()),
        "dtypes": dtypes,
        "unwrapped": [*notes, *stripped],
    }
    return OpenedTorch(model, facts)


def _read_checkpoint(path: Path) -> tuple[Weights, list[str]]:
    """The state dict of a file of `torch.save`, and where in it that was."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages of older versions
            found = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise UnsafeModel(
            "the file holds more than tensors, and loading it would run code", hint=_SAVE_AGAIN
        ) from error
    except Exception as error:  # torch raises errors of any kind for damaged files
        raise InvalidModel(
            f"the weights cannot be read: {type(error).__name__}: {_sentence(error)}",
            hint="upload them again",
        ) from error
    notes: list[str] = []
    for _ in range(_MOST_WRAPPERS):
        if (weights := _state_dict(found)) is not None:
            check_dtypes(weights)
            return weights, notes
        key = next((name for name in _INSIDE if isinstance(found, Mapping) and name in found), None)
        if key is None:
            break
        notes.append(key)
        found = found[key]
    listed = f": it has {plain(str(list(found)[:10]), 300)}" if isinstance(found, Mapping) else ""
    raise InvalidModel(f"the file holds no weights by name{listed}", hint=_SAVE_AGAIN)


def _state_dict(found: Any) -> Weights | None:
    if not isinstance(found, Mapping) or not found:
        return None
    held = {key: value for key, value in found.items() if not str(key).endswith("_extra_state")}
    dense = all(
        isinstance(key, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
        for key, value in held.items()
    )
    return {key: value.detach() for key, value in held.items()} if held and dense else None


def _without_wrappers(weights: Weights, needed: Weights) -> tuple[Weights, list[str]]:
    """The weights without a prefix that all names carry and the network's do not: DataParallel's, torch.compile's."""
    stripped: list[str] = []
    while len(stripped) < _MOST_WRAPPERS:
        prefix = next((one for one in _PREFIXES if all(key.startswith(one) for key in weights)), None)
        if prefix is None or any(key.startswith(prefix) for key in needed):
            break
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        stripped.append(prefix)
    return weights, stripped


def _unfit(weights: Weights, needed: Weights) -> Unfit | None:
    missing = [
        key for key in needed if key not in weights and not key.endswith("num_batches_tracked")
    ]  # older than torch 0.4.1, which does not change what a network computes
    misshapen = [
        (key, tuple(value.shape), tuple(needed[key].shape))
        for key, value in weights.items()
        if key in needed and value.shape != needed[key].shape
    ]
    return unfit(missing, [key for key in weights if key not in needed], misshapen)


def _unfitting(found: Unfit, architecture: Architecture, needed: Weights, weights: Weights) -> InvalidModel:
    better = _better_arguments(architecture, needed, weights)
    if better is not None:
        hint = f"these weights fit `{better}`"
    elif not needed.keys() & weights.keys():
        hint = f"not one name is that of a weight of {architecture.name}; {_guesses(weights) or _ELSEWHERE}"
    else:
        hint = (
            _guesses(weights)
            or f"name the architecture that they were trained in, with its arguments. {zoo.FORM}"
        )
    return InvalidModel(
        f"the weights are not those of {architecture}: {found.summary}",
        param=zoo.PARAM,
        errors=found.errors,
        hint=hint,
    )


def _better_arguments(architecture: Architecture, needed: Weights, weights: Weights) -> Architecture | None:
    """The architecture with as many classes and input channels as the weights have, where that fits."""
    given = dict(architecture.arguments)
    matrices = [key for key, value in needed.items() if value.ndim > 1 and key in weights]
    if not matrices:
        return None
    first, last = matrices[0], matrices[-1]
    if (channels := _changed(weights[first], needed[first], 1)) is not None:
        given["in_channels"] = channels
    if (classes := _changed(weights[last], needed[last], 0)) is not None:
        given["num_classes"] = classes
    if given == architecture.arguments:
        return None
    other = Architecture(architecture.name, given)
    try:
        return other if _unfit(weights, _needed(str(other))) is None else None
    except InvalidParams:
        return None


@cache
def _needed(architecture: str) -> Weights:
    """Names and shapes of the weights of an architecture; they hold no values."""
    with torch.device("meta"):
        return zoo.parse(architecture).build().state_dict()


def _changed(held: torch.Tensor, needed: torch.Tensor, axis: int) -> int | None:
    """The size of an axis that alone is another than it must be."""
    if held.ndim != needed.ndim or held.shape[axis] == needed.shape[axis]:
        return None
    others = [one for one in range(held.ndim) if one != axis]
    same = all(held.shape[one] == needed.shape[one] for one in others)
    return int(held.shape[axis]) if same else None


def _missing(weights: Weights) -> InvalidParams:
    return InvalidParams(
        "weights alone do not say what network they are of",
        param=zoo.PARAM,
        hint=f"{zoo.FORM}; {_guesses(weights) or f'no common network of it has these names: {_ELSEWHERE}'}",
    )


def _guesses(weights: Weights) -> str | None:
    """The common networks whose weights have these names and shapes, as a sentence."""
    ranked = []
    for name in _COMMON:
        needed = _needed(name)
        held, _ = _without_wrappers(weights, needed)
        fitting = sum(key in held and held[key].shape == value.shape for key, value in needed.items())
        share = fitting / max(len(needed), len(held))
        if share >= _ALIKE:
            better = _better_arguments(Architecture(name), needed, held)
            ranked.append((-share, str(better or name)))
    best = [name for _, name in sorted(ranked)[:_GUESSES]]
    return f"they look like those of {' or '.join(f'`{name}`' for name in best)}" if best else None


def _input(
    network: torch.nn.Module, architecture: Architecture, declared: Mapping[str, Any]
) -> dict[str, Any]:
    """What the network takes: as the uploader declares it, or one image of the architecture's size with a free batch."""
    told = (declared.get("signature") or {}).get("inputs", [])
    if len(told) > 1:
        raise InvalidParams(
            f"{architecture.name} takes one input, {len(told)} were declared",
            param="signature",
            hint="declare one",
        )
    if told:
        return {key: told[0][key] for key in ("name", "dtype", "shape")}
    size = getattr(network, "in_size", None)
    if not isinstance(size, tuple | list) or not all(isinstance(one, int) for one in size):
        raise InvalidParams(
            f"{architecture.name} does not say the size of its input",
            param="signature",
            hint='declare it with `signature`: {"inputs": [{"name": "input", "dtype": "float32", "shape": [null, 3, 224, 224]}]}',
        )
    return {"name": "input", "dtype": "float32", "shape": ["batch", _channels(network, architecture), *size]}


def _channels(network: torch.nn.Module, architecture: Architecture) -> int:
    if isinstance(told := architecture.arguments.get("in_channels"), int):
        return told
    first = next((one for one in network.modules() if isinstance(one, torch.nn.Conv2d)), None)
    return first.in_channels if first is not None else 3


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value


def _sentence(error: BaseException) -> str:
    return plain(first_line(str(error)), 300)
