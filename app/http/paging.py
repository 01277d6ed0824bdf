"""Lists in pages, newest first: keyset on (created_at, id), so that a page neither skips nor repeats a row."""

import base64
import binascii
import json
from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, Field
from sqlalchemy import Select, literal, tuple_
from sqlalchemy.orm import Session

from app.db import UtcDateTime
from app.errors import InvalidParams
from app.http.schemas import RequestSchema

Row = TypeVar("Row")
Item = TypeVar("Item")


class PageQuery(RequestSchema):
    """`?limit=&cursor=`; a list with filters derives from this. Use as `Annotated[PageQuery, Query()]`."""

    limit: int = Field(50, ge=1, le=200, description="Most items in the answer.")
    cursor: str | None = Field(None, max_length=200, description="`next_cursor` of the page before.")


class Page(BaseModel, Generic[Item]):
    """One page of a list; `next_cursor` is null on the last."""

    items: list[Item]
    next_cursor: str | None


def paginate(
    session: Session, query: Select[Row], table: Any, page: PageQuery
) -> tuple[list[Row], str | None]:
    """The rows of one page and the cursor of the next. `table` has `created_at` and `id`; `query` has no order.

    Raises:
        InvalidParams: the cursor is none of ours.
    """
    if page.cursor is not None:
        created_at, id_ = _decode(page.cursor)
        before = tuple_(literal(created_at, UtcDateTime()), literal(id_))
        query = query.where(tuple_(table.created_at, table.id) < before)
    ordered = query.order_by(table.created_at.desc(), table.id.desc()).limit(page.limit + 1)
    rows: list[Any] = list(session.scalars(ordered))
    if len(rows) <= page.limit:
        return rows, None
    last = rows[page.limit - 1]
    return rows[: page.limit], _encode(last.created_at, last.id)


def _encode(created_at: datetime, id_: str) -> str:
    text = json.dumps([created_at.isoformat(), id_], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[datetime, str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        created_at, id_ = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        time = datetime.fromisoformat(created_at)
        if time.tzinfo is None or not isinstance(id_, str) or not id_.isascii() or not id_.isprintable():
            raise ValueError
    except (ValueError, TypeError, binascii.Error) as error:
        raise InvalidParams(
            "the cursor is not one that this service gave",
            param="cursor",
            hint="start again without a cursor",
        ) from error
    return time, id_
