"""A TorchScript module that somebody uploaded, with the signature that they declared: run as it is, converted to ONNX."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from app.errors import InvalidModel, SignatureMismatch, UnsupportedOperator
from workers.formats.detect import EXPORT_HINT
from workers.model_handle import ModelHandle
from workers.runtimes.base import Feeds
from workers.torch.exported import dtypes
from workers.torch.exporting import sizes_that_run
from workers.torch.model import TorchModel, example_inputs, leaves, to_array, to_tensor
from workers.torch.opened import fitting, with_outputs
from workers.torch.script_audit import nodes_of
from workers.torch.script_file import Script, as_module, quiet, sentence
from workers.torch.script_signature import Argument, arguments, declared_inputs, does_not_run
from workers.torch.script_to_onnx import script_to_onnx

_KEY = re.compile(r"[\w .:/-]+")  # stays inside the quotes around it
_TENSOR_ARGUMENTS = ("Tensor", "Optional[Tensor]")


class OpenedScript:
    """See `formats.base.OpenedModel`.

    Raises:
        SignatureMismatch: no signature was declared, or one with which the module does not run; the hint shows the form.
        InvalidModel: it keeps values from call to call, or takes or gives something that is no tensor.
    """

    def __init__(self, script: Script, declared: Mapping[str, Any]):
        taken = arguments(script)
        inputs = declared_inputs(script, taken, declared)
        model = TorchModel(_Speaking(_of_tensors(script, taken, inputs)), inputs, ())
        _check_keeps_nothing(script)
        versions = _versions(script.module)
        try:
            self._sizes = sizes_that_run(model)
        except InvalidModel as error:
            raise does_not_run(script, error.detail) from error
        self._model = with_outputs(model, _names(declared))
        if changed := [
            name for name, version in _versions(script.module).items() if versions[name] != version
        ]:
            raise _stateful(changed)
        # the exporter does not take dictionaries apart
        self._tuple = _of_tensors(script, taken, inputs, _keys(model, self._sizes))
        self.inputs = [dict(entry) for entry in inputs]
        self.outputs = [dict(entry) for entry in self._model.outputs]
        self.facts = _facts(script, taken)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name, computed by torch's interpreter of TorchScript.

        Raises:
            SignatureMismatch: the feeds are not what was declared, or not what the module takes.
        """
        tensors = [to_tensor(value) for value in fitting(self.inputs, feeds)]
        try:
            with torch.inference_mode():
                found = leaves(self._model.module(*tensors))
        except RuntimeError as error:
            raise SignatureMismatch(
                f"the TorchScript does not take these inputs: {error}", stage="running"
            ) from error
        return {entry["name"]: to_array(value) for entry, value in zip(self.outputs, found, strict=True)}

    def to_onnx(self, out: Any) -> ModelHandle:
        """By the exporter that keeps control flow. Raises as `script_to_onnx`."""
        return script_to_onnx(replace(self._model, module=self._tuple), self._sizes, out)

    def to_torch(self) -> TorchModel:
        """There is none: torch compiled the layers away.

        Raises:
            UnsupportedOperator: always.
        """
        raise UnsupportedOperator("TorchScript cannot be trained here", hint=EXPORT_HINT)


class _Speaking(torch.nn.Module):
    """Runs a module; what it raises is one sentence."""

    def __init__(self, script: Any):
        super().__init__()
        self.script = script

    def forward(self, *tensors: torch.Tensor) -> Any:
        """What the module gives. Raises RuntimeError."""
        try:
            return self.script(*tensors)
        except RuntimeError as error:
            raise RuntimeError(sentence(error)) from error


def _keys(model: TorchModel, sizes: Mapping[str, int]) -> list[str]:
    """The keys of the dictionary that the module gives; none where it gives something else."""
    with torch.inference_mode():
        found = model.module(*example_inputs(model.inputs, dims=sizes))
    keys = list(found) if isinstance(found, dict) else []
    return keys if all(isinstance(key, str) and _KEY.fullmatch(key) for key in keys) else []


def _of_tensors(
    script: Script, taken: Sequence[Argument], inputs: Sequence[Mapping[str, Any]], keys: Sequence[str] = ()
) -> Any:
    """A TorchScript module that takes the declared inputs by position, numbers as tensors without dimensions.

    With `keys` it gives what the network's dictionary holds there, in order.
    """
    kinds = {argument.name: argument.kind for argument in taken}
    given, calls = [], []
    for number, entry in enumerate(inputs):
        kind = kinds[entry["name"]]
        given.append(f"given_{number}")
        value = given[-1] if kind in _TENSOR_ARGUMENTS else f"{kind}({given[-1]})"
        calls.append(f"{entry['name']}={value}")
    make: Any = torch._C.ScriptModule
    held = make("Declared", torch._C.CompilationUnit(), True)
    held._register_attribute("network", script.module._c._type(), script.module._c)
    wrapped = as_module(held)
    found = ", ".join(f"found['{key}']" for key in keys) or "found"
    source = (
        f"def forward({', '.join(['self', *given])}):\n"
        f"    found = self.network.forward({', '.join(calls)})\n"
        f"    return {found}\n"
    )
    with quiet():
        wrapped.define(source)
    wrapped.eval()
    return wrapped


def _names(declared: Mapping[str, Any]) -> list[str] | None:
    outputs = declared["signature"].get("outputs") or []
    return [entry["name"] for entry in outputs] or None


def _check_keeps_nothing(script: Script) -> None:
    """Raises InvalidModel where `forward` sets attributes of the module: what it gives depends on the calls before."""
    found = {node.s("name") for node in nodes_of(script.graph) if node.kind() == "prim::SetAttr"}
    if found:
        raise _stateful(sorted(found))


def _stateful(names: Sequence[str]) -> InvalidModel:
    return InvalidModel(
        f"the TorchScript keeps values from one call to the next, in {', '.join(map(repr, names[:5]))}; calls of an engine "
        "do not know of one another",
        hint="let `forward` take the values as inputs and give the new ones as outputs, and script that",
    )


def _versions(module: Any) -> dict[str, int]:
    """How often each weight was written to."""
    return {name: value._version for name, value in [*module.named_parameters(), *module.named_buffers()]}


def _facts(script: Script, taken: Sequence[Argument]) -> dict[str, Any]:
    """`producer`, `module` (its class), `arguments` of `forward`, and `parameters`, `buffers`, `dtypes` as `exported` gives them."""
    weights, state = list(script.module.parameters()), list(script.module.buffers())
    return {
        "producer": "TorchScript",
        "module": script.module.original_name,
        "arguments": {argument.name: argument.kind for argument in taken},
        "parameters": sum(value.numel() for value in weights),
        "buffers": sum(value.numel() for value in state),
        "dtypes": dtypes([*weights, *state]),
    }
