"""Which operators there are: a function each, and a builder where a layer can do it.

A function's positional parameters are the operator's inputs, its keywords the attributes, with ONNX's defaults. What a parameter
is annotated with is what it gets: `Tensor` a tensor, `Ints` or `Floats` plain numbers, `Value` what there is. Four
keywords are no attributes: `opset`, `outputs` (how many are read), `like` (an empty tensor on the module's device).
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from workers.onnx_to_torch.values import Floats, Ints, device_of, sizes, tensor_of

Function = TypeVar("Function", bound=Callable[..., Any])
SPECIAL = frozenset({"opset", "outputs", "like"})


@dataclass(frozen=True)
class Operator:
    """An operator's function; `several`: it returns a tuple of outputs; `folds`: of constants alone it is one."""

    function: Callable[..., Any]
    attributes: frozenset[str]
    special: frozenset[str]
    kinds: tuple[str, ...]  # what each input is wanted as: "tensor", "plain", "any"
    rest: str | None  # the same for all that follow
    several: bool
    folds: bool

    def kind(self, index: int) -> str:
        """What an input is wanted as."""
        return self.kinds[index] if index < len(self.kinds) else self.rest or "any"


OPERATORS: dict[str, Operator] = {}
LAYERS: dict[str, Callable[[Any, Any], Any]] = {}
REFUSALS: dict[str, Callable[[Any], str | None]] = {}


def key_of(domain: str, kind: str) -> str:
    """An operator's name here."""
    return kind if domain in ("", "ai.onnx") else f"{domain}:{kind}"


def operator(
    *names: str,
    several: bool = False,
    folds: bool = True,
    refuses: Callable[[Any], str | None] | None = None,
) -> Callable[[Function], Function]:
    """Registers a function as what computes these operators. `refuses` gives a reason against a node, or None."""

    def register(function: Function) -> Function:
        kinds: list[str] = []
        rest = None
        keywords = set()
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                keywords.add(parameter.name)
            elif parameter.kind is parameter.VAR_POSITIONAL:
                rest = _wanted(parameter.annotation)
            else:
                kinds.append(_wanted(parameter.annotation))

        @functools.wraps(function)
        def called(*values: Any, **attributes: Any) -> Any:
            device = device_of(values)
            given = [_as(spec.kind(index), value, device) for index, value in enumerate(values)]
            return function(*given, **attributes)

        special = frozenset(keywords & SPECIAL)
        spec = Operator(called, frozenset(keywords - SPECIAL), special, tuple(kinds), rest, several, folds)
        OPERATORS.update(dict.fromkeys(names, spec))
        if refuses:
            REFUSALS.update(dict.fromkeys(names, refuses))
        return called  # type: ignore[return-value]

    return register


def layer(*names: str, refuses: Callable[[Any], str | None] | None = None) -> Callable[[Function], Function]:
    """Registers a builder of layers for these operators: `(node, build) -> outputs`, or None where no layer does it."""

    def register(function: Function) -> Function:
        LAYERS.update(dict.fromkeys(names, function))
        if refuses:
            REFUSALS.update(dict.fromkeys(names, refuses))
        return function

    return register


def _wanted(annotation: Any) -> str:
    for kind, name in ((Tensor, "tensor"), (Ints, "plain"), (Floats, "plain")):
        if annotation in (kind, kind | None):
            return name
    return "any"


def _as(kind: str, value: Any, device: Any) -> Any:
    if kind == "tensor":
        return tensor_of(value, device)
    return sizes(value) if kind == "plain" else value
