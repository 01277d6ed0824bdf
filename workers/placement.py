"""The GPU that an attempt gets where the machine has several: its child sees no other."""

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
def placed(target: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What a child's environment says of GPUs, for a job's target; {} where it needs none.

    Of the GPUs that the target may run on it is one that nobody else measures on, and with the fewest attempts of this worker.

    Raises:
        Unavailable: the machine has no such GPU (any more).
    """
    runtime = RUNTIMES[target["runtime"]]
    wanted = set(target["params"].get("compute_capabilities", ()))
    fitting = [
        gpu["uuid"]
        for gpu in (gpus() if runtime.device == "cuda" else [])
        if not wanted or number_of(gpu["compute_capability"]) in wanted
    ]
    if not fitting:
        if runtime.device == "cuda" and not runtime.ahead_of_time:
            raise missing(wanted)
        yield {}
        return
    with transaction(readonly=True) as session:
        leased = devices.leased(session, running.HOST)
    with _lock:
        chosen = min(fitting, key=lambda uuid: (uuid in leased, _taken[uuid]))
        _taken[chosen] += 1
    try:
        yield {VISIBLE: chosen}
    finally:
        with _lock:
            _taken[chosen] -= 1


def is_lost(environment: Mapping[str, str]) -> bool:
    """Whether the GPU that an attempt got is gone."""
    chosen = environment.get(VISIBLE)
    return chosen is not None and chosen not in {gpu["uuid"] for gpu in gpus()}


def missing(wanted: Collection[int] = ()) -> Unavailable:
    """No GPU, or none of these compute capabilities."""
    kinds = " or ".join(map(dotted, sorted(wanted)))
    return Unavailable(
        f"this worker's machine has no GPU{f' of compute capability {kinds}' if kinds else ''} any more",
        hint="`GET /v1/workers` says which workers have one; look at the machine's `nvidia-smi` and kernel log",
    )
