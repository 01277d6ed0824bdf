"""OpenVINO's graphs as `lineage` takes them: an IR, and what a device made of it."""

from collections.abc import Set
from pathlib import Path
from typing import Any

from workers.openvino_library import openvino
from workers.profiling.lineage import Graph, Operation
from workers.runtimes.openvino_facts import NOT_NODES, runtime_info

_NOT_NODES = frozenset(("Constant", "Parameter", "Result"))


def openvino_graph(path: Path, known: Set[str]) -> Graph:
    """The graph of an IR, each of its nodes by its name; what control flow runs inside is left out.

    `known` are the values of the model that it was made from: one that several names share goes by such a name.
    """
    graph = openvino.Core().read_model(str(path))
    nodes = graph.get_ordered_ops()
    operations = [
        Operation(
            label=node.get_friendly_name(),
            operator=node.get_type_name(),
            names=(node.get_friendly_name(),),
            aliases=_aliases(node.get_friendly_name()),
            inputs=tuple(dict.fromkeys(_value(port.get_source_output(), known) for port in node.inputs())),
            outputs=tuple(
                name
                for port in node.outputs()
                for name in dict.fromkeys((_value(port, known), *sorted(port.get_names())))
            ),
        )
        for node in nodes
        if node.get_type_name() not in _NOT_NODES
    ]
    constants = frozenset(node.get_friendly_name() for node in nodes if node.get_type_name() == "Constant")
    return Graph(operations, constants)


def _value(port: Any, known: Set[str]) -> str:
    node = port.get_node()
    if node.get_type_name() in _NOT_NODES:
        return str(node.get_friendly_name())
    named = sorted(port.get_names() & known)
    return named[0] if named else f"{node.get_friendly_name()}:{port.get_index()}"


def _aliases(name: str) -> tuple[str, ...]:
    """The node that a node is a part of: conversion calls parts `node/part`."""
    whole = name.rpartition("/")[0]
    return (whole,) if whole else ()


def device_graph(graph: Any, names: Set[str]) -> Graph:
    """What a device made of a network whose nodes have these names. It tells for most nodes which of them they compute."""
    return Graph(
        [
            Operation(
                label=node.get_friendly_name(),
                operator=runtime_info(node, "layerType"),
                names=_listed(runtime_info(node, "originalLayersNames"), names),
                inputs=tuple(_value(port.get_source_output(), frozenset()) for port in node.inputs()),
                outputs=tuple(_value(port, frozenset()) for port in node.outputs()),
            )
            for node in graph.get_ordered_ops()
            if runtime_info(node, "layerType") not in NOT_NODES
        ]
    )


def _listed(text: str, names: Set[str]) -> tuple[str, ...]:
    """Names with commas between them, of which some may be in a name. What the device made itself has none of the names."""
    parts, found, first = text.split(","), [], 0
    while first < len(parts):
        joined = (",".join(parts[first:last]) for last in range(len(parts), first, -1))
        name = next((one for one in joined if one in names), None)
        found += [name] if name else []
        first += name.count(",") + 1 if name else 1
    return tuple(found)
