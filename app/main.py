"""The application: routers, error handlers, what starts and stops with it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from app import __version__
from app.artifacts.routes import router as artifacts
from app.audit.routes import router as audit
from app.auth.principal import Reader
from app.auth.routes import router as auth
from app.auth.routing import SecuredRoute
from app.catalog.routes import router as catalog
from app.config import get_settings
from app.datasets.routes import router as datasets
from app.events import notifier
from app.fleet.routes import router as fleet
from app.http.context import RequestContext
from app.http.limits import BodyLimit
from app.http.openapi import PROBLEM_RESPONSES, describe
from app.http.problems import add_problem_handlers
from app.http.query import refuse_unknown_query
from app.http.rates import get_rates
from app.jobs.routes import router as jobs
from app.models.routes import router as models
from app.observability import tracing
from app.observability.health import ping_database
from app.observability.routes import router as observability
from app.signing.routes import router as signing
from app.storage import get_storage
from app.uploads.routes import router as uploads
from app.webhooks.routes import router as webhooks
from app.webhooks.sender import Sender

DESCRIPTION = "Makes trained neural networks small and fast, and proves it."
UNMATCHED = "unmatched"  # the route of requests that no route takes, whose paths anybody may invent


def create_app() -> FastAPI:
    """The service as an ASGI application, from this process's settings."""
    tracing.start("api")
    app = FastAPI(
        title="Burnish",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=PROBLEM_RESPONSES,
        dependencies=[Depends(refuse_unknown_query)],
        telemetry={
            "tracing": get_settings().tracing,
            "metrics": False,
            "logs": False,
            "auto_configure": False,
        },
    )
    v1 = APIRouter(prefix="/v1")
    for router in (
        uploads,
        models,
        datasets,
        jobs,
        artifacts,
        catalog,
        fleet,
        auth,
        audit,
        webhooks,
        signing,
    ):
        v1.include_router(router)
    app.include_router(v1)
    app.include_router(observability)
    own = APIRouter(route_class=SecuredRoute)
    own.add_api_route("/openapi.json", partial(_openapi, app), include_in_schema=False)
    app.include_router(own)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    add_problem_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=get_settings().max_body_bytes)
    app.add_middleware(RequestContext, route_of=_route_names(app))  # added last: the outermost
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    await run_in_threadpool(_check_database)
    await run_in_threadpool(get_storage().check)
    await notifier.start()
    sender = Sender()
    try:
        yield
    finally:
        await notifier.stop()
        await sender.stop()
        if get_rates.cache_info().currsize:
            get_rates().close()


def _check_database() -> None:
    """A service without its database does not come up."""
    try:
        ping_database()
    except SQLAlchemyError as error:
        raise RuntimeError("the database does not answer, or `burnish migrate` was not run") from error


def _route_names(app: FastAPI) -> Callable[[Scope], str]:
    """Path templates by route, prefixes of including routers included."""
    names = {id(context.original_route): context.path for context in iter_route_contexts(app.routes)}
    return lambda scope: names.get(id(scope.get("route"))) or UNMATCHED


def _openapi(app: FastAPI, _: Reader) -> JSONResponse:
    return JSONResponse(app.openapi())
