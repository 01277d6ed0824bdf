"""The advice of a `profile` job that another job follows: found when it is submitted, and again when it runs."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import InvalidParams, NotFound
from app.jobs.schemas import AdviceRequest
from app.jobs.tables import Job


def find_advice(session: Session, project_id: str, asked: AdviceRequest) -> dict[str, Any]:
    """What was advised: {job, number, rule, title, gain, latency, passes, target}; the last three are the profile's own.

    Raises:
        NotFound: the project has no such job.
        InvalidParams: the job is no finished profile, or gave no such advice.
    """
    job = session.scalar(select(Job).where(Job.id == asked.job, Job.project_id == project_id))
    if job is None:
        raise NotFound(f"there is no job {asked.job}", param="advice.job")
    found = (job.result or {}).get("profile")
    if found is None:
        raise InvalidParams(
            f"the job {job.id} gave no advice: it is of kind {job.kind}, and {job.status}",
            param="advice.job",
            hint="name a job of kind `profile` that succeeded",
        )
    given = {piece["number"]: piece for piece in found["advice"]}
    if asked.number not in given:
        raise InvalidParams(
            f"the job {job.id} gave no advice number {asked.number}",
            param="advice.number",
            hint=f"it gave {', '.join(map(str, given))}" if given else "it gave none",
        )
    piece = given[asked.number]
    return {
        **{"job": job.id, "number": asked.number, "rule": piece["rule"]},
        **{"title": piece["title"], "gain": piece["gain"], "latency": found["latency"]},
        "passes": len(job.request["recipe"]["passes"]),
        "target": found["target"],
    }
