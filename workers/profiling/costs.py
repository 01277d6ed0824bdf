"""What the rows of a profile compute and move at least: floating point operations and bytes of one inference.

The convention is that of `workers.formats.flops`, at the shapes of what was really run. Bytes are those of inputs, weights and
outputs, each once (compulsory traffic; Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009, section 3).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from app.errors import BurnishError
from workers.model_handle import ModelHandle
from workers.profiling.recorded import Row
from workers.runtimes.base import Feeds

BITS = {"fp64": 64, "fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "int8": 8, "fp8": 8}


@dataclass(frozen=True)
class Value:
    """A tensor between operations: its elements and the bits of all of them. `weight`: the same in every inference."""

    elements: int
    bits: int
    floating: bool
    weight: bool = False

    def in_precision(self, precision: str | None, share: float = 1.0) -> float:
        """The bits of a share of it where floating point is kept in this precision, if that is narrower than its own."""
        narrow = BITS.get(precision or "") if self.floating else None
        return share * (self.bits if narrow is None else min(self.bits, narrow * self.elements))


@dataclass(frozen=True)
class Operation:
    """A node of a model. `reads` has by value the share of it that is read at least; what it only looks at in another shape
    stands under the name of the value that holds it. `flops` None: nobody can tell. `repeated`: it may run more or less than once,
    as bodies of control flow do.
    """

    name: str
    operator: str
    flops: int | None
    reads: Mapping[str, float]
    writes: tuple[str, ...]
    repeated: bool = False


@dataclass(frozen=True)
class Model:
    """The operations of a model by name, the values that are known by name, and those that leave the model."""

    operations: Mapping[str, Operation]
    values: Mapping[str, Value]
    outputs: frozenset[str]

    @cached_property
    def readers(self) -> Mapping[str, frozenset[str]]:
        """By value: the operations that read it."""
        found: dict[str, set[str]] = {}
        for operation in self.operations.values():
            for name in operation.reads:
                found.setdefault(name, set()).add(operation.name)
        return {name: frozenset(names) for name, names in found.items()}

    @property
    def flops(self) -> int:
        """Of all operations that are known, each once."""
        return sum(operation.flops or 0 for operation in self.operations.values())


@dataclass(frozen=True)
class Cost:
    """What a row computes and moves in one inference. None: nobody can tell."""

    flops: int | None
    value_bytes: int | None
    weight_bytes: int | None

    @property
    def moved_bytes(self) -> int | None:
        """Values and weights together."""
        if self.value_bytes is None or self.weight_bytes is None:
            return None
        return self.value_bytes + self.weight_bytes


UNKNOWN = Cost(None, None, None)


def read_model(model: ModelHandle, feeds: Feeds) -> Model:
    """The operations of a model for a run of these feeds; names are those that rows have as `sources`.

    Raises:
        BurnishError: it does not open, or does not take the feeds.
    """
    if model.format == "onnx":
        from workers.profiling.onnx_costs import of_onnx

        return of_onnx(model, feeds)
    if model.format == "openvino":
        from workers.profiling.openvino_costs import of_openvino

        return of_openvino(model.path, feeds)
    from workers.profiling.program_costs import of_program
    from workers.torch.program import load_program

    return of_program(load_program(model.path), feeds)


def priced(rows: Sequence[Row], model: Model | None) -> tuple[list[Row], list[Cost]]:
    """Rows with what they cost, and these costs. What the runtime told itself stays; without a model nothing else is known.

    A source that several rows name (parts of one product, or work that was added around it) counts where most time goes. An
    operation that no row names counts where all that it reads does, if it has no FLOPs, or else where all that reads it does: runtimes
    name what they fused after its first or its last part.
    """
    owners = _owners(rows, model) if model is not None else {}
    owned: dict[int, list[str]] = {}
    for name, place in owners.items():
        owned.setdefault(place, []).append(name)
    costs = [_told(row, cost_of(row, owned.get(place, ()), model)) for place, row in enumerate(rows)]
    told = [
        replace(row, flops=cost.flops, moved_bytes=cost.moved_bytes)
        for row, cost in zip(rows, costs, strict=True)
    ]
    return told, costs


def _owners(rows: Sequence[Row], model: Model) -> dict[str, int]:
    """By operation: the place of the row that it counts in."""
    owners: dict[str, int] = {}
    for place, row in enumerate(rows):
        for name in row.sources:
            if name in model.operations and (name not in owners or row.mean_ms > rows[owners[name]].mean_ms):
                owners[name] = place
    makers = {value: one.name for one in model.operations.values() for value in one.writes}
    for one in (one for one in model.operations.values() if one.flops == 0):
        _join(one.name, {makers[value] for value in one.reads if value in makers}, owners)
    for one in reversed(list(model.operations.values())):
        _join(one.name, {reader for value in one.writes for reader in model.readers.get(value, ())}, owners)
    return owners


def _join(name: str, neighbours: set[str], owners: dict[str, int]) -> None:
    places = {owners.get(one) for one in neighbours}
    if name not in owners and len(places) == 1 and (place := places.pop()) is not None:
        owners[name] = place


def cost_of(row: Row, sources: Iterable[str], model: Model | None) -> Cost:
    """What a row costs that computes these operations of a model: their FLOPs, and the bytes that enter and leave the group."""
    group = [model.operations[name] for name in sources if name in model.operations] if model else []
    if model is None or not group:
        return UNKNOWN
    times = row.calls if any(operation.repeated for operation in group) else 1.0
    unknown = any(operation.flops is None for operation in group)
    flops = None if unknown else round(times * sum(operation.flops or 0 for operation in group))
    moved = _moved(group, model, row.precision)
    if moved is None:
        return Cost(flops, None, None)
    return Cost(flops, round(times * moved[0] / 8), round(times * moved[1] / 8))


def _moved(group: Sequence[Operation], model: Model, precision: str | None) -> tuple[float, float] | None:
    """Bits of values and of weights; None where a shape is not known."""
    inner = {operation.name for operation in group}
    made = {name for operation in group for name in operation.writes}
    read: dict[str, float] = {}
    for operation in group:
        for name, share in operation.reads.items():
            if name not in made:
                read[name] = max(share, read.get(name, 0.0))
    written = {
        name: 1.0
        for name in made
        if name in model.outputs or not inner.issuperset(model.readers.get(name, ()))
    }
    bits = [0.0, 0.0]
    for name, share in (*read.items(), *written.items()):
        value = model.values.get(name)
        if value is None:
            return None
        bits[value.weight] += value.in_precision(precision, share)
    return bits[0], bits[1]


def _told(row: Row, cost: Cost) -> Cost:
    """A cost, over which goes what the runtime told of the row."""
    flops = cost.flops if row.flops is None else row.flops
    if row.moved_bytes is None:
        return replace(cost, flops=flops)
    weights = min(cost.weight_bytes or 0, row.moved_bytes)
    return Cost(flops, row.moved_bytes - weights, weights)


def read_if_possible(model: ModelHandle | None, feeds: Feeds, notes: list[str]) -> Model | None:
    """`read_model`; None, with a note why, where that is not possible."""
    if model is None:
        return None
    try:
        return read_model(model, feeds)
    except BurnishError as error:
        notes.append(f"operations and bytes of the layers are not known: {error.detail}")
        return None
