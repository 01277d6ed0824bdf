"""Whether an engine can be measured and verified where it is built: known before anything is queued."""

from sqlalchemy.orm import Session

from app.catalog.recipe import Target
from app.catalog.runtimes import RUNTIMES
from app.errors import NoWorker
from app.fleet import service as fleet
from app.jobs.schemas import OptionsRequest


def check_measurable(session: Session, target: Target, options: OptionsRequest, index: int) -> None:
    """Refuse an engine that no worker can run, unless the request takes it unverified. Workers that are offline count.

    Raises:
        NoWorker: every worker that offers the runtime lacks a GPU that the engine is for.
    """
    if not RUNTIMES[target.runtime].ahead_of_time or options.allow_unmeasured:
        return
    wanted = {str(one) for one in target.params.get("compute_capabilities", ())}
    for gpu in fleet.gpus_offering(session, target.runtime):
        if not wanted or gpu.get("compute_capability", "").replace(".", "") in wanted:
            return
    named = f" of compute capability {', '.join(sorted(wanted))}" if wanted else ""
    raise NoWorker(
        f"{target.runtime} can build this engine, but no worker with a GPU{named} could verify and measure it",
        param="options.allow_unmeasured",
        hint="set options.allow_unmeasured (`--allow-unmeasured`) to take an unverified engine, which `burnish check` verifies "
        f"where it can run; or start a worker for targets[{index}] on a machine with such a GPU",
    )
