"""Which operations of a graph those of another one compute, which was made from it by a runtime or a pass.

What makes a graph from another keeps some names: of operations that it left alone or gave another form, of the values between them,
of weights. An operation that stands for several gives the last one's value and reads the first one's.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_ALIKE = {
    "gemm": "matmul", "qgemm": "matmul", "fullyconnected": "matmul", "deconvolution": "convtranspose",
}  # fmt: skip
_DECORATIONS = ("qlinear", "nhwc", "fused", "dynamicquantize")
_OF_ATTENTION = frozenset(("matmul", "softmax", "einsum"))
_SHORTEST = 4  # of a name that is found inside another: `Mul` is none of `MatMul`


@dataclass
class Operation:
    """`label` is its one name in its graph; `names` are those by which the other graph knows it, `aliases` those by which it may.
    Values are named by tensors.

    `bodies` are the graphs of control flow, by the attribute that holds them.
    """

    label: str
    operator: str
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    bodies: dict[str, "Graph"] = field(default_factory=dict)


@dataclass
class Graph:
    """Operations in an order in which they can run. `constants` are weights, those of graphs around it included."""

    operations: list[Operation]
    constants: frozenset[str] = frozenset()

    def all(self) -> Iterator[Operation]:
        """Every operation, those inside control flow too."""
        for operation in self.operations:
            yield operation
            for body in operation.bodies.values():
                yield from body.all()


def lineage(made: Graph, base: Graph) -> dict[str, tuple[str, ...]]:
    """By each operation of `made`, those of `base` that it computes, in their order; every one of `base` stands in one place at most.

    Nothing: it only moves values or changes their form for others. What is computed from constants alone is nobody's: it was
    computed when `made` was made.
    """
    owners: dict[str, str] = {}
    _match(made, base, owners)
    _claim_taken_out(made, base, owners)
    _claim_inside(made, base, owners)
    found: dict[str, list[str]] = defaultdict(list)
    for one in base.all():
        if one.label in owners:
            found[owners[one.label]].append(one.label)
    return {operation.label: tuple(found[operation.label]) for operation in made.all()}


def _match(made: Graph, base: Graph, owners: dict[str, str]) -> None:
    """Find the owners of the operations of `base`, then of those in graphs inside it that `made` has too."""
    level = _Level(made, base, owners)
    level.claim()
    level.fill()
    for one in base.operations:
        owner = level.operations.get(owners.get(one.label, ""))
        if owner is not None:
            for name in one.bodies.keys() & owner.bodies:
                _match(owner.bodies[name], one.bodies[name], owners)


def _claim_taken_out(made: Graph, base: Graph, owners: dict[str, str]) -> None:
    """By names, wherever they stand: what is left of a branch that is always taken."""
    left = {
        name: one.label
        for one in base.all()
        if one.label not in owners
        for name in (*one.outputs, *one.names)
    }
    for operation in made.all():
        for name in (*operation.names, *operation.outputs):
            if name in left:
                owners.setdefault(left[name], operation.label)


def _claim_inside(made: Graph, base: Graph, owners: dict[str, str]) -> None:
    """What runs inside control flow of which the whole alone is known; of branches that were taken out, the rest of one taken."""
    operations = {one.label: one for one in made.all()}
    for one in base.all():
        owner = operations.get(owners.get(one.label, ""))
        if owner is None or owner.bodies:
            continue
        every = [list(body.all()) for body in one.bodies.values()]
        taken = [inside for inside in every if any(inner.label in owners for inner in inside)]
        for inside in taken or every:
            for inner in inside:
                owners.setdefault(inner.label, owner.label)


class _Level:
    """Two graphs, without those inside them. `owners`: by operations of the base, those that were made of them."""

    def __init__(self, made: Graph, base: Graph, owners: dict[str, str]):
        self._made, self._base, self._owners = made, base, owners
        self.operations = {one.label: one for one in made.operations}
        self._maker = {tensor: one for one in base.operations for tensor in one.outputs}
        self._made_by = {tensor: one for one in made.operations for tensor in one.outputs}
        self._folded = _folded(base)
        self._claimed: dict[str, list[Operation]] = defaultdict(list)

    def claim(self) -> None:
        """By an operation's name, then by weights that nobody else reads, then by the name of what it gives."""
        by_name = {name: one for one in self._base.operations for name in one.names}
        base_readers, made_readers = _readers(self._base), _readers(self._made)
        for forms in ("names", "aliases"):
            for operation in self._made.operations:
                for name in getattr(operation, forms):
                    if name in by_name:
                        self._give(by_name[name], operation)
        for operation in self._made.operations:
            for name in operation.inputs:
                if name in self._base.constants and len(base_readers[name]) == len(made_readers[name]) == 1:
                    self._give(base_readers[name][0], operation)
        for operation in self._made.operations:
            for name in (*operation.outputs, *operation.names, *operation.aliases):
                if name in self._maker:
                    self._give(self._maker[name], operation)

    def fill(self) -> None:
        """Give away what lies between claimed operations. It belongs to the one behind it, whose value is known, but

        - if that one reads a value that the base does not know, what made it did the rest, as convolutions do an addition behind them;
        - if one that claimed nothing stands before it and is of the same kind, that one does it, and what comes before.
        """
        for operation in self._made.operations:
            before = self._unclaimed_before(operation)
            hidden = self._behind_unknown(operation)
            complete = any(_alike(one.operator, operation.operator) for one in self._claimed[operation.label])
            waiting = []
            for one in list(self._claimed[operation.label]):
                other = None if _alike(one.operator, operation.operator) else _first_alike(one, before)
                if other is not None:
                    self._owners[one.label] = other.label
                waiting.append((one, other or operation))
            while waiting:
                below, holder = waiting.pop()
                for one in self._above(below):
                    if one.label in self._owners or one.label in self._folded:
                        continue
                    nearer = hidden & self._owners_above(one)
                    if not complete and _alike(one.operator, operation.operator):
                        owner, complete = operation, True
                    elif len(nearer) == 1:
                        owner = self.operations[nearer.pop()]
                    else:
                        owner = _first_alike(one, before) or holder
                    self._give(one, owner)
                    waiting.append((one, owner))

    def _give(self, one: Operation, owner: Operation) -> None:
        if one.label not in self._owners:
            self._owners[one.label] = owner.label
            self._claimed[owner.label].append(one)

    def _above(self, one: Operation) -> Iterator[Operation]:
        return (self._maker[name] for name in one.inputs if name in self._maker)

    def _unclaimed_before(self, operation: Operation) -> list[Operation]:
        """What claimed nothing and leads to an operation by others that claimed nothing; the nearest first."""
        found: dict[str, Operation] = {}
        waiting = [operation]
        for after in waiting:
            for name in after.inputs:
                one = self._made_by.get(name)
                if one is not None and not self._claimed[one.label] and one.label not in found:
                    found[one.label] = one
                    waiting.append(one)
        return list(found.values())

    def _behind_unknown(self, operation: Operation) -> set[str]:
        """What made the values that an operation reads and the base does not know, through others that claimed nothing."""
        found: set[str] = set()
        waiting = [operation]
        while waiting:
            for name in waiting.pop().inputs:
                one = self._made_by.get(name)
                if one is None or name in self._maker:
                    continue
                if self._claimed[one.label]:
                    found.add(one.label)
                else:
                    waiting.append(one)
        return found

    def _owners_above(self, one: Operation) -> set[str]:
        """Whom the nearest claimed operations belong to from which a value is computed."""
        found: set[str] = set()
        seen = {one.label}
        waiting = [one]
        while waiting:
            for above in self._above(waiting.pop()):
                if above.label in self._owners:
                    found.add(self._owners[above.label])
                elif above.label not in seen:
                    seen.add(above.label)
                    waiting.append(above)
        return found


def _readers(graph: Graph) -> Mapping[str, list[Operation]]:
    readers: dict[str, list[Operation]] = defaultdict(list)
    for one in graph.operations:
        for name in dict.fromkeys(one.inputs):
            readers[name].append(one)
    return readers


def _first_alike(one: Operation, others: list[Operation]) -> Operation | None:
    return next((other for other in others if _alike(one.operator, other.operator)), None)


def _alike(one: str, other: str) -> bool:
    """Whether operators are of one kind by their names: `Conv` and `QLinearConv`, `LSTM` and `LSTMSequence`."""
    first, second = sorted((_kind(one), _kind(other)), key=len)
    if second.endswith("attention"):
        return first in _OF_ATTENTION or first.endswith("attention")
    return second.startswith(first) or (len(first) >= _SHORTEST and first in second)


def _kind(operator: str) -> str:
    kind = operator.lower()
    for decoration in _DECORATIONS:
        kind = kind.removeprefix(decoration)
    return _ALIKE.get(kind, kind)


def _folded(graph: Graph) -> set[str]:
    """Operations on constants alone."""
    constants = set(graph.constants)
    found: set[str] = set()
    for one in graph.operations:
        if all(name in constants for name in one.inputs) and not one.bodies:
            found.add(one.label)
            constants.update(one.outputs)
    return found
