"""What the passes that put two layers in place of one have in common: opening, replacing, writing, telling."""

from collections.abc import Collection, Mapping, Sequence
from math import ceil
from typing import Any

import torch
from torch import fx, nn

from app.errors import InvalidModel
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.surgery import written
from workers.surgery.counting import LayerCount, layers
from workers.surgery.naming import is_ignored, some
from workers.surgery.replacing import replace
from workers.torch.lift import lift
from workers.torch.model import TorchModel
from workers.torch.program import load_program

ENTRY = "model.pt2"
TOLD = 1000  # layers
Parts = Mapping[str, tuple[Mapping[str, nn.Module], float]]  # by layer: what takes its place, and the error


def opened(model: ModelHandle) -> tuple[TorchModel, fx.GraphModule]:
    """The lifted network of a program.

    Raises: see `load_program` and `lift`.
    """
    program = load_program(model.path)
    network = lift(program.program)
    assert isinstance(network, fx.GraphModule)
    return TorchModel(network, program.inputs, program.outputs), network


def shared(network: fx.GraphModule) -> set[str]:
    """Layers with a weight that another layer, or the graph itself, reads too."""
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    read = {str(node.target).rpartition(".")[0] for node in network.graph.nodes if node.op == "get_attr"}
    return read.union(*(names for names in owners.values() if len(names) > 1))


def obstacle(
    name: str, layer: nn.Module, ignore: Sequence[str], taken: Collection[str], stage: str
) -> str | None:
    """Why nothing can be put in place of a layer, whatever its shape; None: it can.

    Raises:
        InvalidModel: its weights hold NaN or infinity.
    """
    if is_ignored(name, ignore):
        return "is ignored"
    if name in taken:
        return "shares its weight with another layer"
    if any(True for _ in layer.children()):
        return "holds layers of its own"
    if not all(bool(torch.isfinite(one).all()) for one in layer.parameters()):
        raise InvalidModel(
            f"the weights of {name} hold NaN or infinity",
            stage=stage,
            node=name,
            hint="upload the network as it was before its training diverged",
        )
    return None


def at_least(share: float) -> str:
    """A share that can be asked for where this one is the least: rounded up."""
    return f"{ceil(share * 1000) / 1000:.3f}"


def reasons(left_out: Mapping[str, str]) -> str:
    """Why layers stay, in words."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{some(names)} {reason}" for reason, names in by_reason.items())


def finished(
    model: TorchModel,
    network: fx.GraphModule,
    parts: Parts,
    left_out: Mapping[str, str],
    before: Mapping[str, LayerCount],
    ctx: PassContext,
    stage: str,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> ModelHandle:
    """The network with its new layers, written and run once more.

    Raises:
        InvalidModel, UnsupportedOperator: it cannot be written, or gives something else afterwards.
    """
    for name, (new, _) in parts.items():
        replace(network, name, new)
    written.write(model, ctx.out / ENTRY)
    written.check(model, ctx.out / ENTRY, stage)
    tell(model, network, parts, left_out, before, ctx, more or {})
    return ModelHandle(ctx.out, ENTRY, "torch-export", tree_digest(ctx.out))


def tell(
    model: TorchModel,
    network: fx.GraphModule,
    parts: Parts,
    left_out: Mapping[str, str],
    before: Mapping[str, LayerCount],
    ctx: PassContext,
    more: Mapping[str, Mapping[str, Any]],
) -> None:
    """Facts: `surgery` {fitted_on (data, weights), parameters [before, after], flops [before, after], layers: [{name, kind, error,
    parameters [before, after], flops [before, after], …}], left_out: [{name, reason}]}. Errors are relative root mean squares.
    """
    after = {one.name: one for one in layers(network, model.inputs)}
    rows = [
        {
            "name": name,
            "kind": before[name].kind,
            "error": error,
            **{
                key: [getattr(before[name], key), sum(getattr(after[f"{name}.{part}"], key) for part in new)]
                for key in ("parameters", "flops")
            },
            **more.get(name, {}),
        }
        for name, (new, error) in parts.items()
    ]
    totals = {
        key: [sum(getattr(one, key) for one in side.values()) for side in (before, after)]
        for key in ("parameters", "flops")
    }
    fitted_on = "data" if ctx.samples.get("calibration") is not None else "weights"
    ctx.facts["surgery"] = {
        "fitted_on": fitted_on,
        **totals,
        "layers": rows[:TOLD],
        "left_out": [{"name": name, "reason": why} for name, why in left_out.items()][:TOLD],
    }
    worst = max(parts, key=lambda name: parts[name][1])
    shares = {key: now / max(then, 1) for key, (then, now) in totals.items()}
    ctx.say(
        f"{len(parts)} layers were replaced, fitted on {fitted_on}: {shares['parameters']:.1%} of the parameters and "
        f"{shares['flops']:.1%} of the operations are left; {worst} lost most, {parts[worst][1]:.1%} of what it gives."
    )
    if left_out:
        ctx.say(f"Left as they are: {reasons(left_out)}.")
