"""`/workers`."""

from fastapi import APIRouter

from app.auth.principal import Reader
from app.auth.routing import SecuredRoute
from app.config import get_settings
from app.fleet import service
from app.fleet.schemas import WorkerAnswer
from app.http.paging import Page
from app.http.sessions import ReadSession

router = APIRouter(tags=["workers"], route_class=SecuredRoute)


@router.get("/workers")
def list_workers(principal: Reader, session: ReadSession) -> Page[WorkerAnswer]:
    """The live workers, their hardware, and what they do now."""
    workers = service.list_live(session, get_settings().worker_seen_seconds)
    running = {job_id for worker in workers for job_id in worker.doing}
    own = service.jobs_of_project(session, principal.project_id, running)
    items = [
        WorkerAnswer(
            id=worker.id,
            host=worker.host,
            version=worker.version,
            queues=worker.queues,
            runtimes=worker.runtimes,
            hardware=worker.hardware,
            sandbox=worker.sandbox,
            jobs=[job_id for job_id in worker.doing if job_id in own],
            other_tasks=sum(job_id not in own for job_id in worker.doing),
            started_at=worker.started_at,
            last_seen_at=worker.last_seen_at,
        )
        for worker in workers
    ]
    return Page(items=items, next_cursor=None)
