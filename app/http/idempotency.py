"""`Idempotency-Key`: the same POST sent twice creates once and is answered the same.

The record is written in the transaction that creates, so both exist or neither does. A second request with the same
key waits on the database for the first to commit or roll back; it never has to be told to come back (409). A request
that failed leaves no record and may be sent again. `POST /v1/keys` takes no part: its answer holds a secret, and
secrets are not stored.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.auth.tables import IdempotencyKey
from app.config import get_settings
from app.db import db_now, upsert
from app.errors import InvalidParams

REPLAYED_HEADER = "Idempotency-Replayed"


@dataclass(frozen=True)
class Created:
    """What a route made: the answer's schema, its address, and the status (201, or 202 for a job)."""

    body: BaseModel
    location: str
    status: int = 201


@dataclass(frozen=True)
class Idempotency:
    """The key of one request, if it has one, and the route it was sent to."""

    key: str | None
    route: str

    def answer(
        self, session: Session, project_id: str, request: Any, create: Callable[[], Created]
    ) -> JSONResponse:
        """Create once and answer, or replay the answer of the request that did.

        Args:
            session: the request's transaction.
            request: what makes this request itself: a schema or plain JSON data (an upload: digest and fields).
            create: does the work in the same transaction.

        Raises:
            InvalidParams: the key was used for another request.
        """
        if self.key is None:
            return _respond(create())
        fingerprint = _fingerprint(request)
        if not self._reserve(session, project_id, fingerprint):
            return self._replay(session, project_id, fingerprint)
        response = _respond(create())
        session.execute(
            update(IdempotencyKey)
            .where(IdempotencyKey.project_id == project_id, IdempotencyKey.key == self.key)
            .values(
                status=response.status_code,
                headers={"Location": response.headers["location"]},
                body=json.loads(bytes(response.body)),
            )
        )
        return response

    def _reserve(self, session: Session, project_id: str, fingerprint: str) -> bool:
        expired = db_now(-get_settings().idempotency_hours * 3600)
        session.execute(
            delete(IdempotencyKey).where(
                IdempotencyKey.project_id == project_id, IdempotencyKey.created_at < expired
            )
        )
        statement = upsert(session, IdempotencyKey).values(
            project_id=project_id,
            key=self.key,
            route=self.route,
            request_sha256=fingerprint,
            status=0,
            headers={},
            body={},
        )
        reserved = session.scalar(statement.on_conflict_do_nothing().returning(IdempotencyKey.key))
        return reserved is not None

    def _replay(self, session: Session, project_id: str, fingerprint: str) -> JSONResponse:
        record = session.scalars(
            select(IdempotencyKey).where(
                IdempotencyKey.project_id == project_id, IdempotencyKey.key == self.key
            )
        ).one()
        if (record.route, record.request_sha256) != (self.route, fingerprint):
            raise InvalidParams(
                "this Idempotency-Key was used for another request",
                param="Idempotency-Key",
                hint="send a fresh key with every new request",
            )
        return JSONResponse(record.body, record.status, headers={**record.headers, REPLAYED_HEADER: "true"})


def idempotency(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="Sending the same request with the same key again answers the same and creates nothing.",
        ),
    ] = None,
) -> Idempotency:
    """FastAPI dependency of every POST that creates."""
    return Idempotency(idempotency_key, f"{request.method} {request.url.path}"[:200])


IdempotencyDep = Annotated[Idempotency, Depends(idempotency)]


def _respond(created: Created) -> JSONResponse:
    body = created.body.model_dump(mode="json", by_alias=True)
    return JSONResponse(body, created.status, headers={"Location": created.location})


def _fingerprint(request: Any) -> str:
    data = request.model_dump(mode="json", by_alias=True) if isinstance(request, BaseModel) else request
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
