"""The GPUs that an attempt gets where the machine has several: its child sees no other. One, unless its recipe trains on more."""

import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from app.catalog.compute_capability import dotted, number_of
from app.catalog.runtimes import RUNTIMES
from app.db import transaction
from app.errors import Unavailable
from app.fleet import devices
from workers import running
from workers.gpu import gpus

VISIBLE = "CUDA_VISIBLE_DEVICES"

_lock = threading.Lock()
_taken: Counter[str] = Counter()  # by UUID: attempts of this worker


@contextmanager
def placed(target: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> Iterator[dict[str, str]]:
    """What a child's environment says of GPUs, for a job's target and recipe; {} where it needs none.

    Of the GPUs that the target may run on they are those that nobody else measures on, and with the fewest attempts of this
    worker; in the order in which `nvidia-smi` lists them, so that everybody means the same by the first.

    Raises:
        Unavailable: the machine has no such GPU (any more), or not so many.
    """
    runtime = RUNTIMES[target["runtime"]]
    wanted = set(target["params"].get("compute_capabilities", ()))
    fitting = {
        gpu["uuid"]: gpu["compute_capability"]
        for gpu in (gpus() if runtime.device == "cuda" else [])
        if not wanted or number_of(gpu["compute_capability"]) in wanted
    }
    if not fitting:
        if runtime.device == "cuda" and not runtime.ahead_of_time:
            raise missing(wanted)
        yield {}
        return
    with transaction(readonly=True) as session:
        leased = devices.leased(session, running.HOST)
    number = gpus_to_train_on(recipe or {})
    if number is not None and number > len(fitting):
        raise too_few(number, len(fitting), wanted)
    with _lock:
        best = sorted(fitting, key=lambda uuid: (uuid in leased, _taken[uuid]))
        kind = [uuid for uuid in best if fitting[uuid] == fitting[best[0]]]
        given = set(kind if number is None else best[:number])
        chosen = [uuid for uuid in fitting if uuid in given]
        _taken.update(chosen)
    try:
        yield {VISIBLE: ",".join(chosen)}
    finally:
        with _lock:
            _taken.subtract(chosen)


def gpus_to_train_on(recipe: Mapping[str, Any]) -> int | None:
    """How many GPUs the passes of a recipe want at most: one for each process that trains; None: all of a kind (`auto`)."""
    asked = [
        step.get("params", {}).get("distributed", {}).get("processes", 1) for step in recipe.get("passes", ())
    ]
    return None if "auto" in asked else max(asked, default=1)


def is_lost(environment: Mapping[str, str]) -> bool:
    """Whether a GPU that an attempt got is gone."""
    chosen = environment.get(VISIBLE)
    return chosen is not None and not set(chosen.split(",")) <= {gpu["uuid"] for gpu in gpus()}


def too_few(asked: int, there: int, wanted: Collection[int] = ()) -> Unavailable:
    """Not as many GPUs, of these compute capabilities, as a recipe trains on."""
    return Unavailable(
        f"the recipe trains on {asked} GPUs, and this worker's machine has {there}{_of_kinds(wanted)}",
        hint="let `distributed.processes` be no more than a worker's machine has GPUs (`GET /v1/workers`), or `auto`",
    )


def missing(wanted: Collection[int] = ()) -> Unavailable:
    """No GPU, or none of these compute capabilities."""
    return Unavailable(
        f"this worker's machine has no GPU{_of_kinds(wanted)} any more",
        hint="`GET /v1/workers` says which workers have one; look at the machine's `nvidia-smi` and kernel log",
    )


def _of_kinds(wanted: Collection[int]) -> str:
    return f" of compute capability {' or '.join(map(dotted, sorted(wanted)))}" if wanted else ""
