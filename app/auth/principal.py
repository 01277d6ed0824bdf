"""Who asks: the dependency that every route but the health checks carries."""

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.auth import limits, service
from app.auth.service import Principal, Scope
from app.auth.tables import DEFAULT_PROJECT
from app.config import get_settings
from app.db import transaction
from app.errors import Forbidden, Unauthorized
from app.http.rates import get_rates

log = structlog.get_logger(__name__)
bearer = HTTPBearer(auto_error=False, bearerFormat="brn_…", description="An API key: `Bearer brn_…`.")


@lru_cache
def require(scope: Scope) -> Callable[..., Awaitable[Principal]]:
    """The dependency that lets a request pass whose key holds `scope`.

    It opens and closes transactions of its own, so that it runs, and ends, before a body is read (`SecuredRoute`); once a
    request, however many ask.
    """

    async def principal(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> Principal:
        found: Principal | None = getattr(request.state, "principal", None)
        if found is None:
            found = await run_in_threadpool(_admit, request, credentials)
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


def project_asked_for(session: Session, principal: Principal, project_id: str | None) -> str:
    """The project that a query names: the key's own where it names none; another one is for the installation's admins.

    Raises:
        Forbidden: the key is not one of theirs.
        NotFound: there is no such project.
    """
    if project_id is None or project_id == principal.project_id:
        return principal.project_id
    if not principal.may("admin"):
        raise Forbidden("this needs an admin key of the default project")
    require_installation_admin(principal)
    return service.get_project(session, project_id).id


def _admit(request: Request, credentials: HTTPAuthorizationCredentials | None) -> Principal:
    """Whose key it is, counted.

    Raises:
        Unauthorized: nobody's.
        RateLimited: its requests, or the wrong keys of the client's address, are too many.
    """
    found = _identify(request, credentials)
    request.state.principal = found
    if found.requests_per_minute is not None:
        request.state.answer_headers = get_rates().admit_key(found.key_id, found.requests_per_minute)
    return found


def _identify(request: Request, credentials: HTTPAuthorizationCredentials | None) -> Principal:
    """Whose key it is.

    Raises:
        Unauthorized: nobody's.
        RateLimited: the client's address has tried too many.
    """
    most = get_settings().address_max_wrong_keys_per_minute
    if most == limits.NO_LIMIT or request.client is None:
        return _authenticate(credentials)
    address = request.client.host
    get_rates().refuse_blocked(address)
    try:
        return _authenticate(credentials)
    except Unauthorized:
        get_rates().count_wrong_key(address, most)
        raise


def _authenticate(credentials: HTTPAuthorizationCredentials | None) -> Principal:
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
        _note_use(principal.key_id)
    return principal


def _note_use(key_id: str) -> None:
    """Where the database cannot take it, its disk being full for one, what the key may do is done all the same."""
    try:
        with transaction() as session:
            service.touch_key(session, key_id)
    except OperationalError as error:
        log.warning("key_use_not_noted", error=str(error.orig))
