"""Whether this worker can do a job just as it was planned: machines differ, and so do versions, that serve one installation."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from app.catalog.pass_params.training import HOROVOD_HINT
from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.catalog.threads import threads_of
from app.errors import IncompatibleRecipe, InvalidParams
from app.jobs.gang import needs_horovod
from workers import horovod_library
from workers.measure.processors import usable_processors


def check(request: Mapping[str, Any]) -> None:
    """Hold a job's request against this worker's catalog and processors.

    Raises:
        InvalidParams: it asks for more threads than the machine has processors, or for Horovod where there is none.
        IncompatibleRecipe: it was planned by another version, whose passes, runtimes or parameters are not this one's.
    """
    for index, step in enumerate(request["recipe"]["passes"]):
        at = f"recipe.passes[{index}]"
        spec = PASSES.get(step["pass"])
        if spec is None:
            raise _other(f"there is no pass {step['pass']} in it", at)
        if step.get("version") not in (None, spec.version):
            raise _other(
                f"its {spec.name} has version {spec.version}, not {step['version']}", f"{at}.version"
            )
        _check_params(spec, step["params"], f"{at}.params")
    target = request["targets"][0]
    if target["runtime"] not in RUNTIMES:
        raise _other(f"there is no runtime {target['runtime']} in it", "targets[0].runtime")
    _check_params(RUNTIMES[target["runtime"]], target["params"], "targets[0].params")
    if needs_horovod(request) and horovod_library.version() is None:
        raise InvalidParams(
            "a pass trains by Horovod, which the worker that took the job has not",
            param="recipe.passes",
            hint=HOROVOD_HINT,
        )
    for name, threads in threads_of(target["params"]).items():
        if threads > (most := usable_processors()):
            raise InvalidParams(
                f"{name}={threads}, and the machine that took the job has {most} processors",
                param=f"targets[0].params.{name}",
                hint="ask for fewer, or for 0: as many as there are",
            )


def able(request: Mapping[str, Any]) -> bool:
    """Whether `check` has nothing against it."""
    try:
        check(request)
    except (IncompatibleRecipe, InvalidParams):
        return False
    return True


def _check_params(spec: Any, params: Mapping[str, Any], at: str) -> None:
    try:
        spec.params.model_validate(params)
    except ValidationError as error:
        names = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise _other(f"its {spec.name} knows other parameters ({names})", at) from None


def _other(why: str, at: str) -> IncompatibleRecipe:
    return IncompatibleRecipe(
        f"the job was planned by another version of Burnish than the workers that are left: {why}",
        param=at,
        hint="submit it again without the versions of its passes, or start a worker of the version that planned it",
    )
