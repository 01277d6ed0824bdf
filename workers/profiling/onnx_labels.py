"""One name for each node of an ONNX graph, those inside control flow included."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import onnx


@dataclass
class Level:
    """A graph: its nodes' labels, in its order, and the graphs inside them by the node's place and the attribute's name.

    `places` finds a node that has a name by it.
    """

    graph: onnx.GraphProto
    labels: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    bodies: dict[int, dict[str, "Level"]] = field(default_factory=dict)

    def levels(self) -> Iterator["Level"]:
        """This one and all inside it, outer ones first."""
        yield self
        for inner in self.bodies.values():
            for body in inner.values():
                yield from body.levels()


def labelled(graph: onnx.GraphProto) -> Level:
    """A graph whose nodes are called by their names or, without one, `Operator_number`, as structure reports have it.

    What several nodes would be called is led by the node around them, as in `loop/step`, and numbered where they stand in one
    graph.
    """
    top = _level(graph, count())
    times = Counter(label for level in top.levels() for label in level.labels)
    _tell_apart(top, "", {label for label, number in times.items() if number > 1}, Counter())
    return top


def _level(graph: onnx.GraphProto, numbers: Iterator[int]) -> Level:
    level = Level(graph)
    for place, node in enumerate(graph.node):
        number = next(numbers)
        level.labels.append(node.name or f"{node.op_type}_{number}")
        if node.name:
            level.places.setdefault(node.name, place)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                level.bodies.setdefault(place, {})[attribute.name] = _level(attribute.g, numbers)
    return level


def _tell_apart(level: Level, around: str, repeated: set[str], given: Counter[str]) -> None:
    for place, label in enumerate(level.labels):
        if label in repeated and around:
            label = f"{around}/{label}"
        given[label] += 1
        if given[label] > 1:
            label = f"{label}#{given[label]}"
        level.labels[place] = label
        bodies = level.bodies.get(place, {})
        for name, body in bodies.items():
            _tell_apart(body, f"{label}/{name}" if len(bodies) > 1 else label, repeated, given)
