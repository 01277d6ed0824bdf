"""Which kernels of compiled code compute which nodes of a program (torch 2.13: `trace.provenance_tracking_level`)."""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import fx
from torch._inductor import config
from torch._inductor.pattern_matcher import LoweringPatternEntry

from workers.torch.facts import COMPUTE, operator
from workers.torch.inductor_facts import KERNEL, PRODUCTS

INFORMATION = "kernel_information.json"  # in a package
_GRAPH = re.compile(r"^graph_\d+_")  # what a generated kernel's name begins with in a profiler
GENERATED = ("cpp_", "triton_")
LIBRARY = re.compile(r"^aoti_torch_(?:cpu_|cuda_)?")


@dataclass(frozen=True)
class Kernel:
    """A call of a kernel, or of a library's function. `number` is Inductor's own, in the order of calls."""

    name: str
    number: int
    nodes: tuple[str, ...]  # of the program that was compiled

    @property
    def generated(self) -> bool:
        """Whether Inductor wrote it."""
        return self.name.startswith(GENERATED)


@contextmanager
def seen_into() -> Iterator[None]:
    """What is compiled in the block marks its kernels for profilers, and its package tells what they compute."""
    marked = {"cpp.enable_kernel_profile": True, "trace.provenance_tracking_level": 1}
    with config.patch(marked), _fused_remembered():
        yield


@contextmanager
def _fused_remembered() -> Iterator[None]:
    """Where calls become one, Inductor remembers the last of them alone; in the block it remembers all."""
    apply = LoweringPatternEntry.apply

    def remembering(self: Any, match: Any, graph: fx.Graph, node: fx.Node) -> None:
        node.meta["from_node"] = [one for fused in match.nodes for one in fused.meta.get("from_node", [])]
        apply(self, match, graph, node)

    LoweringPatternEntry.apply = remembering  # type: ignore[method-assign]
    try:
        yield
    finally:
        LoweringPatternEntry.apply = apply  # type: ignore[method-assign]


def compiled_kernels(package: Path, program: fx.GraphModule) -> list[Kernel]:
    """The calls of a package that was compiled in `seen_into`, in order, each node of the program with one of them.

    Inductor tells with a kernel what its inputs were made of too, as far as nothing was stored in between.
    """
    with zipfile.ZipFile(package) as archive:
        name = next((name for name in archive.namelist() if name.endswith(INFORMATION)), None)
        told: dict[str, Any] = json.loads(archive.read(name)) if name is not None else {}
    found = []
    for called, information in told.items():
        kernel, _, number = called.rpartition(":")
        found.append(Kernel(kernel, int(number), tuple(information["pre_grad_nodes"])))
    found.sort(key=lambda kernel: kernel.number)
    owners = _owners(found, program)
    return [
        Kernel(one.name, one.number, tuple(node for node in owners if owners[node] == one.number))
        for one in found
    ]


def _owners(kernels: Sequence[Kernel], program: fx.GraphModule) -> dict[str, int]:
    """The kernel that computes each node, in the order of the program.

    Convolutions and products are computed by what computes such, the one that is said to do least besides. What was fused behind one
    is named by the same kernels, and goes with it. All else is computed where it is named first.
    """
    naming: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        for name in kernel.nodes:
            naming.setdefault(name, []).append(kernel)
    compute = {
        node.name for node in program.graph.nodes if node.op == "call_function" and operator(node) in COMPUTE
    }
    owners: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.name not in naming:
            continue
        named_by = naming[node.name]
        if node.name in compute:
            products = [one for one in named_by if not one.generated and PRODUCTS.search(one.name)]
            chosen = min(products or named_by[:1], key=lambda one: len(compute.intersection(one.nodes)))
            owners[node.name] = chosen.number
        else:
            owners[node.name] = _behind(node, naming, owners, compute) or named_by[0].number
    return owners


def _behind(
    node: fx.Node, naming: Mapping[str, list[Kernel]], owners: Mapping[str, int], compute: set[str]
) -> int | None:
    """The kernel of the convolution or product that a node was fused behind."""
    for source in node.all_input_nodes:
        if naming.get(source.name) != naming[node.name]:
            continue
        if source.name in compute:
            return owners[source.name]
        if (found := _behind(source, naming, owners, compute)) is not None:
            return found
    return None


def called(kernels: Sequence[Kernel], names: Sequence[str]) -> list[Kernel | None]:
    """Which kernel each of a run's calls is, by the names that a profiler tells in order.

    None: it is none of them, or one of several of that name of which not all ran, as branches are not taken.
    """
    by_name: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        by_name.setdefault(kernel.name, []).append(kernel)
    plain = [plain_name(name) for name in names]
    found: list[Kernel | None] = []
    for place, name in enumerate(plain):
        known = by_name.get(name, [])
        if len(known) == 1:
            found.append(known[0])
        elif len(known) == plain.count(name):
            found.append(known[plain[:place].count(name)])
        else:
            found.append(None)
    return found


def plain_name(name: str) -> str:
    """A kernel's name as `Kernel` has it, from what a profiler tells."""
    return _GRAPH.sub("", name)


def operator_of(name: str) -> str:
    """What a kernel does: a library's function without Inductor's prefix, or that Inductor generated it."""
    return KERNEL if name.startswith(GENERATED) else LIBRARY.sub("", name)
