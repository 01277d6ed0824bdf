"""What a Keras model's configuration may name: Keras' own classes, and no code. Nothing is built before that is known.

Keras' `safe_mode` refuses what it knows to hold code; this asks more: every class must be one of Keras' own kinds.
Source: keras/src/saving/serialization_lib.py.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from app.errors import UnsafeModel, UnsupportedFormat
from workers.torch.keras import EXPORT_HINT, keras_library

_CODE = {"Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer"}
_LOOKUPS = {"StringLookup", "IntegerLookup", "TextVectorization", "Hashing", "HashedCrossing"}
_VALUES = {
    "__keras_tensor__",
    "__tensor__",
    "__numpy__",
    "__bytes__",
    "__ellipsis__",
    "__slice__",
    "__tuple__",
}
_FUNCTIONS = (
    "builtins",
    "keras.activations",
    "keras.ops",
    "keras.losses",
    "keras.src.activations",
    "keras.src.ops",
    "keras.src.losses",
)
# where `.h5` files, which name no modules, find their classes
_LEGACY_MODULES = (
    "keras.layers", "keras.models", "keras.src.models.functional", "keras.initializers", "keras.regularizers",
    "keras.constraints", "keras.dtype_policies", "keras.quantizers", "keras.src.ops.numpy", "keras.src.ops.nn",
    "keras.src.ops.math", "keras.src.ops.core",
)  # fmt: skip


def check_config(config: Mapping[str, Any]) -> None:
    """Hold every class and function that a model's configuration names to Keras' own.

    Raises:
        UnsafeModel: a layer holds code.
        UnsupportedFormat: a class or function is none of Keras' own, or works on text.
    """
    keras_library()  # classes are looked up among the modules that it loads
    # how it was trained is not read: the model is opened with `compile=False`
    inference = {key: value for key, value in config.items() if key != "compile_config"}
    for layer, found in _named(inference):
        name = _called(found)
        if name in _CODE:
            raise UnsafeModel(
                f"the layer {layer!r} ({name}) holds Python code, which runs when the model is opened or used",
                node=layer,
                hint=f"replace it by Keras' own layers, or {EXPORT_HINT}",
            )
        if name in _LOOKUPS:
            raise UnsupportedFormat(
                f"the layer {layer!r} ({name}) looks words or numbers up, which is done before the network here",
                node=layer,
                hint="save the network behind it as a model of its own",
            )
        if not _is_own(found):
            where = f"{found['module']}." if isinstance(found.get("module"), str) else ""
            raise UnsupportedFormat(
                f"the layer {layer!r} needs {where}{name}, which Keras {keras_library().__version__} does not have",
                node=layer,
                hint=f"code of your own is not run here: {EXPORT_HINT}",
            )


def _named(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Whatever names a class, with the name of the layer that it is in."""
    waiting: list[tuple[str, Any]] = [("model", config)]
    while waiting:
        layer, value = waiting.pop()
        if isinstance(value, Mapping):
            if "class_name" in value:
                inner = value.get("config")
                named = inner.get("name") if isinstance(inner, Mapping) else None
                layer = named if isinstance(named, str) else layer
                yield layer, value
            waiting += [(layer, item) for item in value.values()]
        elif isinstance(value, list):
            waiting += [(layer, item) for item in reversed(value)]


def _called(found: Mapping[str, Any]) -> str:
    """A class's name, or a function's: Keras writes that as the configuration of the class `function`."""
    return str(found.get("config") if found["class_name"] == "function" else found["class_name"])


def _is_own(found: Mapping[str, Any]) -> bool:
    name, module = found["class_name"], found.get("module")
    if not isinstance(name, str) or not isinstance(module, str | None):
        return False
    if name in _VALUES:
        return True
    if name == "function":
        return module is not None and any(module == own or module.startswith(f"{own}.") for own in _FUNCTIONS)
    modules = _LEGACY_MODULES if module is None else (module,)
    return any(_is_kind(getattr(sys.modules.get(own), name, None)) for own in modules if _is_keras(own))


def _is_keras(module: str) -> bool:
    return module == "keras" or module.startswith("keras.")


def _is_kind(found: Any) -> bool:
    keras = keras_library()
    kinds = (
        keras.Operation, keras.Initializer, keras.Regularizer, keras.constraints.Constraint, keras.DTypePolicy,
        keras.Quantizer, keras.Loss, keras.Metric, keras.Optimizer, keras.random.SeedGenerator,
        keras.optimizers.schedules.LearningRateSchedule,
    )  # fmt: skip
    return isinstance(found, type) and issubclass(found, kinds)
