"""OpenVINO's own counters: the time of each node of the network that a device compiled. One subclass a device.

Source: https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference.html (PERF_COUNT) and
src/plugins/intel_cpu/src/perf_count.h, src/plugins/intel_gpu/src/plugin/graph.cpp: a counter is the mean over all runs since the
network was compiled, in whole microseconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

from app.catalog.spec import Params
from workers.openvino_library import openvino
from workers.profiling.chrome import LAID_OUT, laid_out
from workers.profiling.lineage import Graph, lineage
from workers.profiling.openvino_lineage import device_graph, openvino_graph
from workers.profiling.recorded import Plan, Recorded, Row
from workers.profiling.turns import take_turns, typical
from workers.runtimes.base import Engine, Feeds
from workers.runtimes.openvino_device import OpenVinoDevice
from workers.runtimes.openvino_facts import COMPUTE, EIGHT_BITS, FOUR_BITS, PRECISIONS, runtime_info

TRACE = "openvino-trace.json"
RESOLUTION = (
    "OpenVINO counts whole microseconds, rounded down: nodes of a few microseconds are told too short"
)
ONE_BY_ONE = "it was profiled with one stream, as counters do not tell streams apart"

Counters = dict[str, int]  # microseconds by node


class OpenVinoProfiler:
    """See `recorded.Profiler`; one subclass a device. Rows are nodes of the compiled network that were executed.

    Control flow is one row: OpenVINO tells nothing of the nodes inside.
    """

    runtime: ClassVar[OpenVinoDevice]
    accumulates: ClassVar[bool] = True  # else counters are those of the last run

    def profile(
        self, engine: Engine, params: Params, feeds: Sequence[Feeds], plan: Plan, out: Path
    ) -> Recorded:
        """See `recorded.Profiler`. `sources` are nodes of the engine's IR."""
        streams = {"streams": 1} if getattr(params, "streams", 0) > 1 else {}
        alone = params.model_copy(update={"hint": "latency", **streams})
        loaded = self.runtime.load_counting(engine, alone)
        warm: list[Counters] = []
        counted: list[Counters] = []

        def count() -> Counters:
            return _microseconds(loaded.counters())

        turns = take_turns(
            loaded.run,
            feeds,
            plan,
            warm=lambda: warm.append(count()),
            after=lambda: None if self.accumulates else counted.append(count()),
        )
        if self.accumulates:
            spent = _since(warm[0], turns.warm_up, count(), turns.warm_up + len(turns.run_ms))
            spent = _scaled(spent, turns.run_ms)
        else:
            spent = _mean(counted[number] for number in typical(turns.run_ms))
        rows = _rows(loaded.runtime_graph(), spent, openvino_graph(engine.path, frozenset()))
        return Recorded(
            rows=rows,
            run_ms=turns.run_ms,
            traces=[laid_out(rows, out / TRACE, "OpenVINO")],
            notes=[RESOLUTION, LAID_OUT, *([ONE_BY_ONE] if alone != params else [])],
        )


def _microseconds(counters: Iterable[Any]) -> Counters:
    executed = openvino.ProfilingInfo.Status.EXECUTED
    return {
        one.node_name: round(one.real_time.total_seconds() * 1e6)
        for one in counters
        if one.status == executed
    }


def _since(before: Counters, runs_before: int, after: Counters, runs_after: int) -> Mapping[str, float]:
    """The mean of the runs that came between, of counters that are means since the beginning."""
    return {
        name: max(told * runs_after - before.get(name, 0) * runs_before, 0) / (runs_after - runs_before)
        for name, told in after.items()
    }


def _scaled(spent: Mapping[str, float], run_ms: Sequence[float]) -> Mapping[str, float]:
    """Means over all runs brought to the typical run: what interrupts a run takes from each node in proportion to its time."""
    share = mean(run_ms[number] for number in typical(run_ms)) / mean(run_ms)
    return {name: share * one for name, one in spent.items()}


def _mean(runs: Iterable[Counters]) -> Mapping[str, float]:
    every = list(runs)
    return {name: sum(one.get(name, 0) for one in every) / len(every) for one in every for name in one}


def _rows(graph: Any, spent: Mapping[str, float], network: Graph) -> list[Row]:
    """The nodes that were executed, in the order in which the device runs them."""
    sources = lineage(device_graph(graph, {one.label for one in network.operations}), network)
    nodes = [node for node in graph.get_ordered_ops() if node.get_friendly_name() in spent]
    return [
        Row(
            name=node.get_friendly_name(),
            operator=runtime_info(node, "layerType"),
            calls=1.0,
            mean_ms=spent[node.get_friendly_name()] / 1000,
            precision=_precision(node),
            place=runtime_info(node, "primitiveType"),
            layout=_layout(node),
            output=_shape(node),
            sources=sources.get(node.get_friendly_name(), ()),
        )
        for node in sorted(nodes, key=lambda node: int(runtime_info(node, "execOrder")))
    ]


def _precision(node: Any) -> str | None:
    """What a node computes in; of one with packed weights, for which OpenVINO tells their type, that of its input."""
    kind = runtime_info(node, "runtimePrecision")
    if (
        runtime_info(node, "layerType") in COMPUTE
        and len(node.inputs()) > 1
        and kind in EIGHT_BITS | FOUR_BITS
    ):
        kind = node.input(0).get_element_type().to_string()
    return PRECISIONS.get(kind)


def _layout(node: Any) -> str | None:
    told = "outputLayouts" in node.get_rt_info()
    return (told and runtime_info(node, "outputLayouts")) or None


def _shape(node: Any) -> tuple[int, ...] | None:
    if not node.outputs():
        return None
    shape = node.get_output_partial_shape(0)
    return tuple(node.get_output_shape(0)) if shape.is_static else None
