"""The calls of a network's graph under watch, each by the name of its layer.

A graph runs as before, but for its calls: whoever watches makes each of them, and may time it, mark it in a trace, or look at what
comes out. Who watches may change from run to run.
"""

import operator
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import fx, nn

from app.errors import UnsupportedOperator
from workers.profiling.torch_rows import Shape, Site
from workers.surgery.counting import shapes_only
from workers.torch.lift import CALL, lift
from workers.torch.program import Program

Target = Callable[..., Any]
GUARDS = "GuardsFn"  # what checks that inputs fit the program
_GLUE = ("sym_", "_assert")  # calls that compute no tensor
_TRIES, _CALLS_TRIED = 20, 100  # to learn what watching costs
_PRECISIONS = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class Watcher(Protocol):
    """Makes the calls of a network."""

    def call(self, label: str, target: Target, args: Any, kwargs: Any) -> Any:
        """What the call gives."""
        ...


class Unwatched:
    """See `Watcher`: nobody looks."""

    def call(self, label: str, target: Target, args: Any, kwargs: Any) -> Any:
        """See `Watcher.call`."""
        return target(*args, **kwargs)


@dataclass
class Watch:
    """Who makes the calls of a watched network now."""

    by: Watcher = field(default_factory=Unwatched)


class _Call(nn.Module):
    """A call of a graph, made by whoever watches."""

    def __init__(self, label: str, target: Target, watch: Watch):
        super().__init__()
        self._label, self._watch = label, watch
        self._target = (target,)  # not as a submodule, whose weights would have a second name then

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._watch.by.call(self._label, self._target[0], args, kwargs)


@dataclass(frozen=True)
class Names:
    """Which nodes of a program are which layers, {node: (layer, class)}, and which read weights of no layer: {node: weights}."""

    layers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def watched(network: fx.GraphModule, watch: Watch, names: Names) -> dict[str, Site]:
    """Put a network's calls, and those of graphs inside it, under watch; the sites by label, in the order of the graph.

    `names` are those of the outer graph's nodes.
    """
    found: dict[str, Site] = {}
    inner = [(name, one) for name, one in network.named_modules() if isinstance(one, fx.GraphModule)]
    for path, graph_module in inner:
        for node in list(graph_module.graph.nodes):
            if not is_call(node):
                continue
            site = site_of(graph_module, node, f"{path}." if path else "", Names() if path else names)
            found.setdefault(site.label, site)
            _put_under_watch(graph_module, node, site.label, watch)
        graph_module.recompile()
    return found


def is_call(node: fx.Node) -> bool:
    """Whether a node of a graph computes something."""
    if node.op == "call_module":
        return True
    if node.op != "call_function" or node.target is operator.getitem:
        return False
    return not getattr(node.target, "__name__", "").startswith(_GLUE)


def site_of(network: fx.GraphModule, node: fx.Node, prefix: str, names: Names) -> Site:
    """What a profile says of a call: the layer that it is, else the node below the module that it stands in.

    Labels are the names that `surgery.counting` has, with `prefix` for a graph inside another.
    """
    weights = names.weights.get(node.name, ())
    if node.op == "call_module":
        layer, kind = str(node.target), type(network.get_submodule(str(node.target))).__name__
    elif node.name in names.layers:
        layer, kind = names.layers[node.name]
    else:
        label, modules = prefix + node.name, _modules(node)
        return Site(
            label, ".".join((*modules, label)), _operator(node.target), (label, *weights), (*modules, label)
        )
    label = prefix + layer
    return Site(label, label, kind, () if kind == GUARDS else (label, *weights), tuple(label.split(".")))


def _operator(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name
    return str(getattr(target, "__name__", target))


def _modules(node: fx.Node) -> tuple[str, ...]:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]).removeprefix("L['self'].").removeprefix("L['self']") if stack else ""
    return tuple(path.split(".")) if path else ()


def _put_under_watch(network: fx.GraphModule, node: fx.Node, label: str, watch: Watch) -> None:
    target = network.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    assert callable(target)
    name = f"watched_{node.name}"
    network.add_module(name, _Call(label, target, watch))
    with network.graph.inserting_before(node):
        called = network.graph.create_node("call_module", name, node.args, node.kwargs)
        called.meta = dict(node.meta)
    node.replace_all_uses_with(called)
    network.graph.erase_node(node)


def names_of(program: Program) -> Names:
    """Layers and weights of a program as `burnish models show --layers` has them; none where it cannot be lifted.

    A weight that several calls read is the first one's.
    """
    try:
        with shapes_only():
            network = lift(program.program)
    except UnsupportedOperator:
        return Names()
    assert isinstance(network, fx.GraphModule)
    layers, weights = dict[str, tuple[str, str]](), dict[str, tuple[str, ...]]()
    for node in network.graph.nodes:
        if node.op == "call_module":
            kind = type(network.get_submodule(str(node.target))).__name__
            layers[node.meta[CALL]] = str(node.target), kind
        elif node.op == "get_attr" and isinstance(_held(network, str(node.target)), nn.Parameter):
            first = next(user for user in network.graph.nodes if node in user.all_input_nodes)
            name = first.meta.get(CALL, first.name)
            weights[name] = (*weights.get(name, ()), str(node.target))
    return Names(layers, weights)


def _held(network: nn.Module, name: str) -> Any:
    owner, _, last = name.rpartition(".")
    return getattr(network.get_submodule(owner), last)


class Stopwatch:
    """See `Watcher`: how long each call takes, without the calls inside it. `runs`: {label: [calls, ns]} of each run."""

    def __init__(self) -> None:
        self.runs: list[dict[str, list[int]]] = []
        self._inside = 0

    def begin(self) -> None:
        """What is called from here on belongs to another run."""
        self.runs.append({})

    def call(self, label: str, target: Target, args: Any, kwargs: Any) -> Any:
        """See `Watcher.call`."""
        outer, self._inside = self._inside, 0
        started = time.perf_counter_ns()
        try:
            return target(*args, **kwargs)
        finally:
            took = time.perf_counter_ns() - started
            spent = self.runs[-1].setdefault(label, [0, 0])
            spent[0] += 1
            spent[1] += took - self._inside
            self._inside = outer + took


def overhead_ns(clock: Stopwatch) -> float:
    """What it costs to have a call under watch of a stopwatch, besides what the stopwatch itself takes for the call's."""
    call, calls = _Call("nothing", lambda: None, Watch(clock)), []
    for _ in range(_TRIES):
        clock.begin()
        started = time.perf_counter_ns()
        for _ in range(_CALLS_TRIED):
            call()
        spent = time.perf_counter_ns() - started
        calls.append((spent - clock.runs.pop()["nothing"][1]) / _CALLS_TRIED)
    return statistics.median(calls)


class Ranges:
    """See `Watcher`: each call is a range of a `torch.profiler` trace."""

    def call(self, label: str, target: Target, args: Any, kwargs: Any) -> Any:
        """See `Watcher.call`."""
        with torch.profiler.record_function(label):
            return target(*args, **kwargs)


class Shapes:
    """See `Watcher`: looks at what calls take and give. `found` is by label, of its first call."""

    def __init__(self) -> None:
        self.found: dict[str, Shape] = {}

    def call(self, label: str, target: Target, args: Any, kwargs: Any) -> Any:
        """See `Watcher.call`."""
        result = target(*args, **kwargs)
        outputs, inputs = _tensors(result), _tensors((args, kwargs))
        first = tuple(outputs[0].shape) if outputs else None
        self.found.setdefault(label, Shape(first, _precision([*outputs, *inputs])))
        return result


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _precision(tensors: list[torch.Tensor]) -> str | None:
    types = {tensor.dtype for tensor in tensors}
    return next((name for kind, name in _PRECISIONS.items() if kind in types), None)
