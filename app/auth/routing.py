"""The class of every route that needs a key: it asks for the key first.

FastAPI reads a request's body before it asks the dependencies: nobody without a key may make the service read, or say
what it thinks of a body.
"""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.auth.principal import bearer, require
from app.auth.service import SCOPES
from app.http.strict import StrictRequest


class SecuredRoute(APIRoute):
    """Asks for the key before it reads the body, and reads JSON strictly; use as `APIRouter(route_class=SecuredRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind the check of the key."""
        handler = super().get_route_handler()
        asked = set(_calls(self.dependant))
        checks = [require(scope) for scope in SCOPES if require(scope) in asked]
        if not checks:
            raise TypeError(f"{self.path} asks for no key")

        async def secured(request: Request) -> Response:
            credentials = await bearer(request)
            for check in checks:
                await check(request, credentials)
            return await handler(StrictRequest(request.scope, request.receive))

        return secured


def _calls(dependant: Dependant) -> Iterator[Any]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)
