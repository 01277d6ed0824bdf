"""Uploads as multipart/form-data (RFC 7578), in constant memory: the file goes to storage as it comes."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.concurrency import run_in_threadpool

from app.auth.quotas import StorageRoom
from app.config import get_settings
from app.errors import BurnishError, InvalidParams, MalformedRequest, PayloadTooLarge, UnsupportedMediaType
from app.http.problems import invalid_fields
from app.http.receiving import receive_into
from app.storage import Blob, BlobWriter, get_storage

FILE_PART = "file"
MAX_FIELD_BYTES = 64 * 1024
MAX_PARTS = 100
OVERHEAD_BYTES = MAX_PARTS * MAX_FIELD_BYTES  # what a body may hold besides the file

Fields = TypeVar("Fields", bound=BaseModel)


@dataclass(frozen=True)
class Form(Generic[Fields]):
    """A stored file, the name that its sender gave it, and the fields beside it."""

    blob: Blob
    filename: str
    fields: Fields


async def receive_form(request: Request, schema: type[Fields], room: StorageRoom) -> Form[Fields]:
    """Receive a file that fits into `room`, with the fields of `schema`; a field of type `list[str]` may be repeated.

    No transaction is open while bytes stream.

    Raises:
        UnsupportedMediaType, MalformedRequest, InvalidParams, PayloadTooLarge, QuotaExceeded, UploadStalled, DiskFull
    """
    limit = get_settings().max_upload_bytes
    boundary = _boundary(request)
    declared = int(request.headers.get("content-length", "0")) - OVERHEAD_BYTES
    if declared > limit:
        raise PayloadTooLarge(f"the upload is larger than {limit} bytes")
    replace(room).take(declared)  # refuse it before it begins
    form = _Parser(boundary, schema, room, lambda: get_storage().writer(limit))
    try:
        await receive_into(form.write, request)
        return await run_in_threadpool(form.finish)
    except BaseException:
        form.abort()
        raise


def _boundary(request: Request) -> bytes:
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type != b"multipart/form-data":
        given = media_type.decode("latin-1") or "a body without Content-Type"
        raise UnsupportedMediaType(
            f"this takes multipart/form-data or application/json, not {given}",
            param="Content-Type",
            hint=f"send the file as the multipart field `{FILE_PART}`, or JSON with the id of an `upload`",
        )
    if not options.get(b"boundary"):
        raise MalformedRequest(
            "the Content-Type of a multipart body must name its boundary", param="Content-Type"
        )
    return options[b"boundary"]


class _Parser(Generic[Fields]):
    """The parser's callbacks: collects small fields, passes the file on."""

    def __init__(
        self,
        boundary: bytes,
        schema: type[Fields],
        room: StorageRoom,
        open_writer: Callable[[], BlobWriter],
    ):
        self._room = room
        self._schema = schema
        self._open_writer = open_writer
        self._writer: BlobWriter | None = None
        self._filename = ""
        self._fields: defaultdict[str, list[str]] = defaultdict(list)
        self._parts = 0
        self._part_name = ""
        self._part_value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def write(self, data: bytes) -> None:
        """Take a piece of the body.

        Raises:
            MalformedRequest, InvalidParams, PayloadTooLarge, DiskFull
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(error) from error

    def finish(self) -> Form[Fields]:
        """Store the file, once everything else was found right."""
        if self._parser.state != MultipartState.END:
            raise MalformedRequest("the multipart body ends before its last boundary")
        if self._writer is None:
            raise InvalidParams(f"the body has no part called `{FILE_PART}`", param=FILE_PART)
        if self._writer.size_bytes == 0:
            raise InvalidParams("the file is empty", param=FILE_PART)
        fields = self._parse_fields()
        return Form(self._writer.commit(), self._filename, fields)

    def abort(self) -> None:
        """Leave nothing behind; after `finish` there is nothing to leave."""
        if self._writer is not None:
            self._writer.abort()

    def _parse_fields(self) -> Fields:
        known = self._schema.model_fields
        values: dict[str, Any] = {}
        for name, given in self._fields.items():
            if known[name].annotation == list[str]:
                values[name] = given
            elif len(given) > 1:
                raise InvalidParams("the field was given more than once", param=name)
            else:
                values[name] = given[0]
        try:
            return self._schema.model_validate(values)
        except ValidationError as error:
            raise invalid_fields(error) from error

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidParams(f"the body has more than {MAX_PARTS} parts")
        self._headers = {}
        self._part_value = bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        _, options = parse_options_header(disposition)
        self._part_name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._part_name == FILE_PART:
            self._begin_file(options.get(b"filename"))
        elif self._part_name not in self._schema.model_fields:
            allowed = ", ".join([FILE_PART, *self._schema.model_fields])
            raise InvalidParams(
                f"there is no field {self._part_name!r}",
                param=self._part_name or None,
                hint=f"fields are: {allowed}",
            )

    def _begin_file(self, filename: bytes | None) -> None:
        if self._writer is not None:
            raise InvalidParams(
                f"the body has more than one part called `{FILE_PART}`",
                param=FILE_PART,
                hint="send a model of several files as one .zip or .tar",
            )
        self._filename = _plain_name(filename or b"")
        if not self._filename:
            raise InvalidParams(f"the part `{FILE_PART}` has no filename", param=FILE_PART)
        self._writer = self._open_writer()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part_name == FILE_PART and self._writer is not None:
            self._room.take(end - start)
            self._writer.write(memoryview(data)[start:end])
        elif len(self._part_value) + end - start > MAX_FIELD_BYTES:
            raise PayloadTooLarge(f"the field is larger than {MAX_FIELD_BYTES} bytes", param=self._part_name)
        else:
            self._part_value += data[start:end]

    def _on_part_end(self) -> None:
        if self._part_name == FILE_PART:
            return
        try:
            self._fields[self._part_name].append(self._part_value.decode())
        except UnicodeDecodeError as error:
            raise InvalidParams("the field is not UTF-8", param=self._part_name) from error


def _plain_name(filename: bytes) -> str:
    """The last component of what a client calls its file, without characters that do not print."""
    name = PurePosixPath(filename.decode("utf-8", "replace").replace("\\", "/")).name
    return "".join(character for character in name if character.isprintable())[-255:]


def _malformed(error: FormParserError) -> BurnishError:
    return MalformedRequest(f"the multipart body cannot be read: {error}")
