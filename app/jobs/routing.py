"""The queue that a job waits in. Queues go by capability: a runtime, and on NVIDIA GPUs a kind of GPU too.

An engine that is built ahead of time needs two: one to be built, on any machine, and one to be measured, on a GPU that it is for.
"""

from collections.abc import Iterable, Mapping

from sqlalchemy.orm import Session

from app.catalog.compute_capability import dotted
from app.catalog.pass_params.training import HOROVOD_HINT, trains_by_horovod
from app.catalog.recipe import Recipe, Target
from app.catalog.runtimes import RUNTIMES
from app.catalog.threads import threads_of
from app.config import get_settings
from app.errors import InvalidParams, NoWorker
from app.fleet import service as fleet
from app.fleet.service import Presence
from app.jobs.schemas import OptionsRequest
from app.queue import queue_for


def route(session: Session, target: Target, recipe: Recipe, options: OptionsRequest, index: int) -> str:
    """The queue of a job for one target, which workers serve or served: those that are only offline may be waited for.

    Raises:
        NoWorker: no worker was ever seen that could build the engine, or train as a pass shall; or none that could measure it,
            and the request takes no unverified one.
        InvalidParams: it asks for more threads than any of them has processors.
    """
    queue = _queue(session, target, options, index)
    for name, threads in threads_of(target.params).items():
        if (most := fleet.processors(session, queue)) is not None and threads > most:
            raise InvalidParams(
                f"{name}={threads}, and no worker for {target.runtime} has more than {most} processors",
                param=f"targets[{index}].params.{name}",
                hint="ask for fewer, or for 0: as many as there are",
            )
    for number, step in enumerate(recipe.passes):
        if trains_by_horovod(step.params) and not fleet.has_horovod(session, queue):
            raise NoWorker(
                f"no worker for {target.runtime} was ever seen that has Horovod",
                param=f"recipe.passes[{number}].params.distributed.backend",
                hint=HOROVOD_HINT,
            )
    return queue


def _queue(session: Session, target: Target, options: OptionsRequest, index: int) -> str:
    served = _served(session)
    building = queue_for(target.runtime)
    if not RUNTIMES[target.runtime].ahead_of_time:
        queue = _best(running_queues(target, served), served)
        if queue is None:
            raise _nobody(target, index)
        return queue
    measuring = _best(running_queues(target, served), served)
    if measuring is None and not options.allow_unmeasured:
        raise _nobody_to_measure(target, index)
    queue = _best([building, *([measuring] if measuring else [])], served)
    if queue is None:
        raise _nobody(target, index)
    return queue


def measuring_queue(session: Session, target: Target, queue: str, *, allow_unmeasured: bool) -> str | None:
    """Where a job that was built in `queue`, by a worker without a GPU for it, goes on; None: nowhere.

    A request that takes an unverified engine waits for no worker that is only offline.
    """
    if not RUNTIMES[target.runtime].ahead_of_time:
        return None
    served = _served(session)
    candidates = running_queues(target, served)
    if queue in candidates:
        return None
    found = _best(candidates, served)
    return None if found and allow_unmeasured and served[found] == "offline" else found


def running_queues(target: Target, served: Iterable[str]) -> list[str]:
    """The queues whose workers can run a target's engine, the ones that the target names first first."""
    plain = queue_for(target.runtime)
    kinds = target.params.get("compute_capabilities", ())
    if kinds:
        return [queue_for(target.runtime, kind) for kind in kinds]
    if RUNTIMES[target.runtime].ahead_of_time:
        return sorted(queue for queue in served if queue.startswith(f"{plain}.sm"))
    return [plain]


def _served(session: Session) -> dict[str, Presence]:
    return fleet.served(session, get_settings().worker_seen_seconds)


def _best(candidates: Iterable[str], served: Mapping[str, Presence]) -> str | None:
    known = [queue for queue in candidates if queue in served]
    return next((queue for queue in known if served[queue] == "online"), known[0] if known else None)


def _nobody(target: Target, index: int) -> NoWorker:
    kinds = _named(target)
    return NoWorker(
        f"no worker ever offered the runtime {target.runtime}{kinds}",
        param=f"targets[{index}].{'params.compute_capabilities' if kinds else 'runtime'}",
        hint=f"start `burnish worker` on a machine{' with such a GPU' if kinds else ''} that can: by itself it serves the queue "
        f"{running_queues(target, ())[0]} there (or name it in --queues); see `GET /v1/workers`",
    )


def _nobody_to_measure(target: Target, index: int) -> NoWorker:
    return NoWorker(
        f"{target.runtime} can build this engine, but no worker with a {_device(target)}{_named(target)} could verify and measure it",
        param="options.allow_unmeasured",
        hint="set options.allow_unmeasured (`--allow-unmeasured`) to take an unverified engine, which `burnish check` verifies "
        f"where it can run; or start a worker for targets[{index}] on a machine with such a {_device(target)}",
    )


def _device(target: Target) -> str:
    return "TPU" if RUNTIMES[target.runtime].device == "tpu" else "GPU"


def _named(target: Target) -> str:
    kinds = sorted(target.params.get("compute_capabilities", ()))
    return f" of compute capability {' or '.join(map(dotted, kinds))}" if kinds else ""
