"""What passes say of the structure that they changed, in one form. Each says it in its own (`ctx.facts` of `workers/surgery`)."""

from collections.abc import Iterable, Mapping
from typing import Any

from app.reports.schemas import LayerChange, Pair, Surgery
from workers.steps import StepOutcome

Json = Mapping[str, Any]


def surgery(steps: Iterable[StepOutcome]) -> list[Surgery]:
    """The steps that changed what the network is made of."""
    found = [(step.name, step.facts.get("details") or {}) for step in steps]
    return [said for name, facts in found if (said := _of(name, facts)) is not None]


def _of(name: str, facts: Json) -> Surgery | None:
    if "surgery" in facts:
        return _replaced(name, facts["surgery"])
    if "pruned" in facts:
        return _zeros(name, facts["pruned"])
    if "units" in facts and "layers" in facts:
        return _narrowed(name, facts)
    return None


def _narrowed(name: str, facts: Json) -> Surgery:
    """Channels that were removed: `prune-channels`."""
    layers = [
        LayerChange(
            name=layer["name"],
            kind=layer["kind"],
            **{key: _pair(layer[key]) for key in ("parameters", "flops", "channels") if key in layer},
        )
        for layer in facts["layers"]
    ]
    totals = {key: _pair(facts[key]) for key in ("parameters", "flops", "size_bytes")}
    held = [f"{one['place']}: {one['why']}" for one in facts.get("held_back", [])]
    return Surgery(step=name, layers=layers, left_out=held, **totals)


def _replaced(name: str, facts: Json) -> Surgery:
    """Layers that became two: `depthwise-separable`, `low-rank`; branches that were dropped: `shrink-depth`."""
    layers = [
        LayerChange(
            name=layer["name"],
            kind=layer["kind"],
            parameters=layer["parameters"],
            flops=layer["flops"],
            error=layer["error"],
        )
        for layer in facts["layers"]
    ]
    return Surgery(
        step=name,
        parameters=facts["parameters"],
        flops=facts["flops"],
        layers=layers,
        left_out=_left_out(facts),
    )


def _zeros(name: str, facts: Json) -> Surgery:
    """Weights that became zero: `prune-weights`."""
    layers = [
        LayerChange(name=layer["name"], weights=layer["weights"], zeros=layer["zeros"])
        for layer in facts["layers"]
    ]
    return Surgery(step=name, layers=layers, left_out=_left_out(facts))


def _left_out(facts: Json) -> list[str]:
    return [f"{one['name']}: {one['reason']}" for one in facts.get("left_out", [])]


def _pair(value: Json) -> Pair:
    return value["before"], value["after"]
