"""`/healthz`, `/readyz` and `/metrics`."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from app.auth.principal import InstallationAdmin
from app.auth.routing import SecuredRoute
from app.observability import health, metrics

router = APIRouter(tags=["observability"])
secured = APIRouter(tags=["observability"], route_class=SecuredRoute)


class Alive(BaseModel):
    """The process answers."""

    status: str = "ok"


@router.get("/healthz")
async def healthz() -> Alive:
    """Whether the process lives. Needs no key."""
    return Alive()


@router.get("/readyz", responses={503: {"model": health.Readiness, "description": "A part does not answer."}})
def readyz(response: Response) -> health.Readiness:
    """Whether database, broker and storage answer. Needs no key."""
    found = health.readiness()
    response.status_code = 200 if found.ready else 503
    return found


@secured.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics(_: InstallationAdmin) -> Response:
    """Metrics in Prometheus' text format. Needs an admin key of the default project."""
    return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


router.include_router(secured)
