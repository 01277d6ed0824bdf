"""Where the file of a new model or dataset comes from: a form that carries it, or an upload that is complete."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic

from fastapi import Depends, Request
from pydantic import Field, ValidationError, create_model
from python_multipart.multipart import parse_options_header
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.auth.principal import require
from app.auth.quotas import StorageRoom, storage_room
from app.auth.service import Principal
from app.db import transaction
from app.http.multipart import FILE_PART, Fields, receive_form
from app.http.problems import invalid_fields
from app.storage import Blob
from app.uploads import service


@dataclass(frozen=True)
class Source(Generic[Fields]):
    """What a request gave: the fields, and either a file or the id of an upload."""

    fields: Fields
    file: Blob | None
    filename: str
    upload_id: str | None

    def fingerprint(self) -> dict[str, Any]:
        """What makes the request itself, for `Idempotency-Key`."""
        fields = self.fields.model_dump(mode="json")
        if self.file is None:
            return fields
        return {"digest": self.file.digest, "filename": self.filename, "fields": fields}

    def take(self, session: Session, project_id: str) -> tuple[Blob, str]:
        """The stored file and its name; an upload is used up by the same transaction that adds a row over its bytes.

        Raises:
            NotFound: the project has no such upload.
            Conflict: it is not complete.
        """
        if self.file is not None:
            return self.file, self.filename
        return service.consume(session, project_id, str(self.upload_id))


def source_of(schema: type[Fields]) -> Callable[..., Awaitable[Source[Fields]]]:
    """The dependency that receives a file, or the id of an upload, with the fields of `schema`.

    The key is checked before the first byte of the body is read.
    """

    named = _naming_an_upload(schema)

    async def receive(
        request: Request, principal: Annotated[Principal, Depends(require("write"))]
    ) -> Source[Fields]:
        media_type, _options = parse_options_header(request.headers.get("content-type"))
        if media_type == b"application/json":
            fields = _read(await request.body(), named)
            return Source(fields, None, "", fields.upload)  # type: ignore[attr-defined]
        room = await run_in_threadpool(_room, principal.project_id)
        form = await receive_form(request, schema, room)
        return Source(form.fields, form.blob, form.filename, None)

    return receive


def _room(project_id: str) -> StorageRoom:
    with transaction(readonly=True) as session:
        return storage_room(session, project_id)


def file_body(schema: type[Fields]) -> dict[str, Any]:
    """The OpenAPI description of what `source_of(schema)` takes, for a route's `openapi_extra`."""
    file = {"type": "string", "format": "binary", "description": "The file."}
    fields = schema.model_json_schema()
    form = {
        "type": "object",
        "required": [FILE_PART, *fields.get("required", [])],
        "properties": {FILE_PART: file, **fields["properties"]},
        "additionalProperties": False,
    }
    kinds = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": _naming_an_upload(schema).model_json_schema()},
    }
    return {"requestBody": {"required": True, "content": kinds}}


def _naming_an_upload(schema: type[Fields]) -> type[Fields]:
    """The schema with the field that stands for the file."""
    described = Field(min_length=1, max_length=40, description="The id of a complete upload, `upl_…`.")
    return create_model(
        f"{schema.__name__}OfUpload", __base__=schema, __doc__=schema.__doc__, upload=(str, described)
    )


def _read(body: bytes, schema: type[Fields]) -> Fields:
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise invalid_fields(error) from error
