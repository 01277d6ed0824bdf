"""What each network is made into, and what is said of what came of it: accuracy and size, no timing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_DROP = 0.01
SEED = 0
THREADS = 1
RUNTIMES = ("onnxruntime-cpu", "openvino-cpu", "torch-inductor-cpu")


@dataclass(frozen=True)
class Case:
    """A target with its parameters, and a recipe. Passes that read calibration data are given it."""

    runtime: str
    passes: Sequence[Mapping[str, Any]]
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a recipe. Either `problem` says why there is no engine, or the rest is given."""

    passes: Sequence[Mapping[str, Any]]
    problem: Mapping[str, Any] | None = None  # {code, detail}
    original: float | None = None  # top-1 accuracy of the unmodified model in fp32 on the same runtime
    engine: float | None = None
    drop: Mapping[str, float] | None = None  # {value, low, high}: 95%
    within: bool | Literal["undecided"] | None = None
    size_ratio: float | None = None  # the engine's files over the uploaded model
    sqnr_db: float | None = None  # None: no difference at all


def _simplified(name: str, **params: Any) -> list[dict[str, Any]]:
    return [{"pass": "simplify"}, {"pass": name, "params": params}]


_ONNXRUNTIME = (
    _simplified("quantize-static"),
    _simplified("quantize-static", method="percentile"),
    _simplified("quantize-dynamic"),
    _simplified("quantize-weights", bits=8),
    _simplified("quantize-weights", bits=4),
    _simplified("to-fp16"),
    _simplified("to-bf16"),
)
_OPENVINO = (
    _simplified("quantize-openvino"),
    _simplified("quantize-openvino", model_type="transformer"),
    _simplified("quantize-static"),
    _simplified("quantize-weights", bits=8),
    _simplified("to-fp16"),
)
CASES = (
    *(Case("onnxruntime-cpu", passes) for passes in _ONNXRUNTIME),
    *(Case("openvino-cpu", passes) for passes in _OPENVINO),
    Case("openvino-cpu", [{"pass": "simplify"}], {"inference_precision": "bf16"}),
    *(
        Case("torch-inductor-cpu", [{"pass": "quantize-torch", "params": {"mode": mode}}])
        for mode in ("int8-static", "int8-dynamic", "weights-8bit")
    ),
)
