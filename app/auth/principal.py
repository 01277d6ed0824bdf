"""Who asks: the dependency that every route but the health checks carries."""

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.auth import service
from app.auth.service import Principal, Scope
from app.auth.tables import DEFAULT_PROJECT
from app.db import transaction
from app.errors import Forbidden, Unauthorized

_bearer = HTTPBearer(auto_error=False, bearerFormat="brn_…", description="An API key: `Bearer brn_…`.")


@lru_cache
def require(scope: Scope) -> Callable[..., Principal]:
    """The dependency that lets a request pass whose key holds `scope`.

    It opens and closes transactions of its own, so that it runs, and ends, before an upload's bytes are read.
    """

    def principal(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Principal:
        found = _identify(credentials)
        request.state.principal = found
        if not found.may(scope):
            raise Forbidden(
                f"this needs a key with the scope `{scope}`",
                hint=f"the key holds: {', '.join(sorted(found.scopes))}",
            )
        return found

    return principal


def require_installation_admin(principal: Annotated[Principal, Depends(require("admin"))]) -> Principal:
    """The dependency of what concerns the whole installation: an admin of the default project."""
    if principal.project_id != DEFAULT_PROJECT:
        raise Forbidden("this needs an admin key of the default project")
    return principal


Reader = Annotated[Principal, Depends(require("read"))]
Writer = Annotated[Principal, Depends(require("write"))]
Admin = Annotated[Principal, Depends(require("admin"))]
InstallationAdmin = Annotated[Principal, Depends(require_installation_admin)]


def _identify(credentials: HTTPAuthorizationCredentials | None) -> Principal:
    if credentials is None:
        raise Unauthorized(
            "the request carries no API key",
            hint="send `Authorization: Bearer brn_…`",
            headers={"WWW-Authenticate": "Bearer"},
        )
    with transaction(readonly=True) as session:
        known = service.authenticate(session, credentials.credentials)
    if known is None:
        raise Unauthorized(
            "the API key is unknown, expired or revoked",
            hint="make one with `burnish keys create`",
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )
    principal, due = known
    if due:
        with transaction() as session:
            service.touch_key(session, principal.key_id)
    return principal
