"""Another place to run it: nodes that fell back to the CPU, calls that cost more than they compute, another runtime."""

from collections.abc import Iterator

from workers.profiling.advice import rule
from workers.profiling.advising import Case, Finding
from workers.profiling.gains import Ratio, gain_of
from workers.profiling.layer_kinds import LayerKind

WORTH_A_WORD = 0.03  # of the time
TINY = 10.0  # times the cost of a small call, up to which a call is mostly that
LAUNCH_BOUND = 0.2  # of the time in such calls, from which on they are worth a word
UNSURE = 1.15  # the gain, below which another runtime is a guess
INEFFICIENT = 0.6  # of the floor's rate
MEMORY_COPIES = frozenset(("memcpytohost", "memcpyfromhost", "memcpy"))
OTHERS = {
    "torch-eager": ("onnxruntime-cpu", "openvino-cpu", "torch-inductor-cpu"),
    "torch-inductor-cpu": ("openvino-cpu", "onnxruntime-cpu"),
    "onnxruntime-cpu": ("openvino-cpu",),
    "openvino-cpu": ("onnxruntime-cpu",),
    "torch-eager-cuda": ("torch-inductor-cuda", "tensorrt", "onnxruntime-cuda"),
    "onnxruntime-cuda": ("tensorrt", "torch-inductor-cuda"),
}

# new time over the time before, measured: see `docs/decisions/profiling.md`
ON_GPU = Ratio(0.05, 0.8)
REPLAYED = Ratio(0.1, 0.9)
OF_FLOOR = 0.9  # of the floor's rate that another runtime's kernels reach at best
KERNELS_ALIKE = 1.2
COMPILED = Ratio(0.1, 0.9)  # what compilers fuse away between layers


@rule("cpu-fallback")
def cpu_fallback(case: Case) -> Iterator[Finding]:
    """Nodes on the CPU while the target is a GPU, with the copies around them."""
    if case.device != "cuda":
        return
    fallen = [
        place
        for place, layer in enumerate(case.layers)
        if "cpu" in (layer.place or "").lower() or layer.operator.lower() in MEMORY_COPIES
    ]
    share = case.share(fallen)
    if share < WORTH_A_WORD:
        return
    operators = sorted({case.layers[place].operator for place in fallen} - {"MemcpyToHost", "MemcpyFromHost"})
    other = _other(case)
    yield Finding(
        title="Nodes run on the CPU",
        why=f"{len(fallen)} nodes and copies on the CPU take {share:.0%} of the time: the GPU's provider has no kernel for "
        f"{', '.join(operators[:5]) or 'them'}, as they stand. Export the model with other operators"
        + (f", or try {other}." if other else ". `cpu_nodes=refuse` makes it an error."),
        evidence={"nodes": len(fallen), "share": round(share, 4), "operators": operators[:20]},
        layers=fallen,
        gain=gain_of(case.profile, dict.fromkeys(fallen, ON_GPU)) if other else None,
        request=case.request(runtime=other) if other else None,
    )


@rule("launch-bound")
def launch_bound(case: Case) -> Iterator[Finding]:
    """Many small nodes, of which calling costs more than computing: a recorded graph, a compiler, or more samples a run."""
    peaks = case.profile.peaks
    if peaks is None:
        return
    tiny = [
        place
        for place, layer in enumerate(case.layers)
        if layer.bound != "compute" and layer.mean_ms <= TINY * peaks.overhead_ms * layer.calls
    ]
    share = case.share(tiny)
    if share < LAUNCH_BOUND:
        return
    calls = sum(case.layers[place].calls for place in tiny)
    graph = case.params.get("cuda_graph") is False
    free = case.model is not None and any(
        not isinstance(size, int) for entry in case.model.inputs for size in entry["shape"]
    )
    other = None if graph and not free else _other(case)
    request, gain = None, None
    if graph and not free:
        request = case.request(params={"cuda_graph": True})
        gain = gain_of(case.profile, dict.fromkeys(tiny, REPLAYED))
    elif other is not None:
        request, gain = (
            case.request(runtime=other),
            gain_of(case.profile, dict.fromkeys(tiny, Ratio(0.3, 1.3))),
        )
    advice = (
        "A recorded CUDA graph starts them all at once."
        if graph and not free
        else f"{other} may fuse more of them." if other else "A compiler may fuse more of them."
    )  # fmt: skip
    yield Finding(
        title="Calls cost more than they compute",
        why=f"{calls:.0f} calls a run are so small that they mostly cost the call itself, and take {share:.0%} of the time. {advice} "
        "More samples in a run share the cost.",
        evidence={"calls": calls, "share": round(share, 4), "overhead_ms": peaks.overhead_ms},
        layers=tiny,
        gain=gain,
        request=request,
    )


@rule("another-runtime")
def another_runtime(case: Case) -> Iterator[Finding]:
    """Another runtime of the machine, where this one's kernels stay far from their floors or nothing is fused."""
    other = _other(case)
    if other is None or case.precision != "fp32":
        return
    eager = case.runtime.startswith("torch-eager")
    slow = [
        place
        for place, layer in enumerate(case.layers)
        if layer.floor_ms is not None and layer.floor_ms < INEFFICIENT * layer.mean_ms
    ]
    ratios = {place: _elsewhere(case, place, kind, eager=eager) for place, kind in enumerate(case.kinds)}
    gain = gain_of(case.profile, ratios)
    if gain.value < UNSURE:
        return
    yield Finding(
        title=f"Try {other}",
        why=f"{len(slow)} layers, {case.share(slow):.0%} of the time, reach less than {INEFFICIENT:.0%} of what the device could do in "
        f"them. {other} has other kernels{' and fuses what is between them' if eager else ''}.",
        evidence={"layers": len(slow), "share": round(case.share(slow), 4), "runtime": other},
        layers=slow,
        gain=gain,
        request=case.request(runtime=other),
    )


def _other(case: Case) -> str | None:
    """The first of the runtimes that may be faster, of those that this machine has."""
    return next((name for name in OTHERS.get(case.runtime, ()) if name in case.offered), None)


def _elsewhere(case: Case, place: int, kind: LayerKind, *, eager: bool) -> Ratio:
    layer = case.layers[place]
    if kind.kind == "other":
        return COMPILED if eager else Ratio(0.5, KERNELS_ALIKE)
    least = (layer.floor_ms or layer.mean_ms) / layer.mean_ms / OF_FLOOR if layer.mean_ms else 1.0
    return Ratio(min(max(least, 0.05), 1.0), 1.05 if eager else KERNELS_ALIKE)
