"""Exported programs as StableHLO: walked in JAX, operator by operator as torchax has them, and serialized by `jax.export`.

Weights are arguments, not constants: they lie beside the program, in safetensors, and no limit of a protobuf applies to them.
Free dimensions become JAX's symbolic ones.

Source: https://docs.jax.dev/en/latest/export/export.html and https://docs.jax.dev/en/latest/export/shape_poly.html.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx import Interpreter, Node

from app.errors import UnsupportedOperator
from app.text import first_line, plain
from workers.runtimes.base import Uncovered
from workers.torch.model import dtype_name
from workers.torch.noise import quiet
from workers.torch.program import Program
from workers.xla.devices import library
from workers.xla.library import lowerings
from workers.xla.quantized import QUANTIZED

HINT = "use another target: torch-inductor-cpu takes every exported program"
_ASSERTIONS = ("_assert", "sym_constrain_range")  # hold sizes that were held when the program was exported
_UNBOUNDED = 2**31


@dataclass(frozen=True)
class Lowered:
    """A program that `jax.export` serialized, a function of (weights, inputs), and the weights by name, in its order."""

    program: bytes
    weights: dict[str, torch.Tensor]


def lower(program: Program, platforms: Sequence[str], precision: str | None = None) -> Lowered:
    """Lower a program for all of these platforms (`cpu`, `tpu`), whichever there are here.

    `precision` is how TPUs multiply fp32 (`jax.default_matmul_precision`); CPUs have one way.

    Raises:
        UnsupportedOperator: an operator, a type or a free dimension has no form in JAX; all such operators at once.
        Unavailable: JAX or torchax is not installed.
    """
    jax = library()
    decomposed = decompose(program)
    if missing := uncovered(decomposed):
        named = ", ".join(sorted({str(one.operator) for one in missing}))
        raise UnsupportedOperator(
            f"torchax has no form in JAX for {plain(named, 500)}",
            stage="building",
            node=missing[0].node,
            hint=HINT,
        )
    weights, places = _weights(decomposed)
    walk = _Walk(decomposed.graph_module)
    types = [entry["dtype"] for entry in program.outputs]

    def function(held: list[Any], inputs: list[Any]) -> list[Any]:
        found = walk.run(*_arranged(places, held, inputs), enable_io_processing=False)
        kept = [value for value, is_kept in zip(found, _kept(decomposed), strict=True) if is_kept]
        return [jax.numpy.asarray(value, dtype=dtype) for value, dtype in zip(kept, types, strict=True)]

    try:
        struct = jax.ShapeDtypeStruct
        held = [struct(value.shape, dtype_name(value.dtype)) for value in weights.values()]
        with jax.default_matmul_precision(precision):
            exported = jax.export.export(jax.jit(function), platforms=list(platforms))(
                held, _avals(jax, decomposed)
            )
        return Lowered(bytes(exported.serialize()), weights)
    except MemoryError:
        raise
    except Exception as error:  # JAX and torchax raise errors of many kinds, Python's own among them
        at = walk.at
        raise UnsupportedOperator(
            f"JAX cannot lower this model: {type(error).__name__}: {plain(first_line(str(error)), 400)}",
            stage="building",
            node=at.name if at is not None else None,
            hint=HINT,
        ) from error


def decompose(program: Program) -> ExportedProgram:
    """The program in core ATen operators and those that torchax counts on."""
    _, decompositions = lowerings()
    table: Any = torch.export.default_decompositions()
    table.update(decompositions)
    with quiet():
        found: ExportedProgram = program.program.run_decompositions(table)
    return found


def calls(program: ExportedProgram) -> Iterator[Node]:
    """The nodes that call an operator; assertions are left out."""
    for node in program.graph.nodes:
        target = node.target
        is_operator = isinstance(target, torch._ops.OpOverload | torch._ops.HigherOrderOperator)
        if is_operator and not _asserts(target):
            yield node


def uncovered(program: ExportedProgram) -> list[Uncovered]:
    """The calls of a decomposed program that have no form in JAX."""
    reason = "torchax has no JAX function for it"
    return [
        Uncovered(node.name, str(node.target), reason)
        for node in calls(program)
        if jax_function(node.target) is None
    ]


class _Walk(Interpreter):
    """Runs a graph on JAX's arrays; `at` is the node that it came to."""

    def __init__(self, module: torch.fx.GraphModule):
        super().__init__(module)
        self.extra_traceback = False
        self.at: Node | None = None

    def run_node(self, n: Node) -> Any:
        self.at = n
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if not isinstance(target, torch._ops.OpOverload):
            return super().call_function(target, args, kwargs)  # arithmetic on sizes
        if _asserts(target):
            return None
        function = jax_function(target)
        assert function is not None
        return function(*args, **kwargs)


def jax_function(target: Any) -> Callable[..., Any] | None:
    """The JAX function of an operator; None where there is none, or it draws random numbers."""
    if isinstance(target, torch._ops.HigherOrderOperator):
        return None
    if found := QUANTIZED.get(target.name()):
        return found
    known, _ = lowerings()
    operator = known.get(target) or known.get(target.overloadpacket)
    if operator is None or not operator.is_jax_function or operator.needs_env:
        return None
    function: Callable[..., Any] = operator.func
    return function


def _asserts(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.name.partition("::")[2].startswith(
        _ASSERTIONS
    )


_INPUT = object()


def _weights(program: ExportedProgram) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """The tensors that the program holds, each once, and for each placeholder: `_INPUT`, the place of a tensor, or (constant,)."""
    weights: dict[str, torch.Tensor] = {}
    seen: dict[Any, int] = {}
    places: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            if isinstance(spec.arg, ConstantArgument):
                places.append((spec.arg.value,))
            elif isinstance(spec.arg, TensorArgument):
                places.append(_INPUT)
            else:
                raise UnsupportedOperator(
                    f"input {spec.arg.name!r} is no tensor", stage="building", hint=HINT
                )
            continue
        name = str(spec.target)
        value = program.state_dict[name] if name in program.state_dict else program.constants[name]
        if not isinstance(value, torch.Tensor) or value.is_complex():
            raise UnsupportedOperator(
                f"{plain(name, 200)!r} is a {type(value).__name__} that safetensors cannot hold",
                stage="building",
                hint=HINT,
            )
        same = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride()) if value.numel() else name
        if same not in seen:
            seen[same] = len(weights)
            weights[name] = value
        places.append(seen[same])
    return weights, places


def _arranged(places: list[Any], held: list[Any], inputs: list[Any]) -> Iterator[Any]:
    """The arguments of a graph's placeholders, by the places of `_weights`."""
    given = iter(inputs)
    for place in places:
        if place is _INPUT:
            yield next(given)
        else:
            yield held[place] if isinstance(place, int) else place[0]


def _kept(program: ExportedProgram) -> list[bool]:
    """For each output of the graph whether it is a tensor that the network returns."""
    return [
        spec.kind == OutputKind.USER_OUTPUT and isinstance(spec.arg, TensorArgument)
        for spec in program.graph_signature.output_specs
    ]


def _avals(jax: Any, program: ExportedProgram) -> list[Any]:
    """The inputs as JAX traces them. Bounds of 2 and less are torch's habit, not the network's."""
    bounds = []
    for symbol, known in program.range_constraints.items():
        if not symbol.is_symbol:
            continue
        if known.lower > 2:
            bounds.append(f"{symbol} >= {int(known.lower)}")
        if known.upper < _UNBOUNDED:
            bounds.append(f"{symbol} <= {int(known.upper)}")
    scope = jax.export.SymbolicScope(bounds)
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    found = []
    for name in program.graph_signature.user_inputs:
        if isinstance(name, str):
            value = values[name]
            shape = (
                jax.export.symbolic_shape(f"({', '.join(map(str, value.shape))},)", scope=scope)
                if value.ndim
                else ()
            )
            found.append(jax.ShapeDtypeStruct(shape, dtype_name(value.dtype)))
    return found
