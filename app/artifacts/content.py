"""A stored file as an HTTP answer: ranges and validators (RFC 9110), `Repr-Digest` (RFC 9530), file names (RFC 6266)."""

import base64
import re
from collections.abc import Mapping
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from app.errors import NotFound, RangeNotSatisfiable
from app.storage import Storage

_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)
_SAFE = re.compile(r"[^A-Za-z0-9._-]")


def answer(
    storage: Storage,
    digest: str,
    size_bytes: int,
    media_type: str,
    filename: str,
    method: str,
    request: Mapping[str, str],
) -> Response:
    """The answer to GET or HEAD of a stored file; `request` holds the request's header fields, whatever their case.

    Where the store gives links, GET is answered with one, whatever range was asked for: the client asks there again.

    Raises:
        NotFound: the bytes are gone.
        RangeNotSatisfiable: the file does not hold the range that was asked for.
    """
    etag = f'"{digest}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:",
        "Content-Disposition": disposition(filename),
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    if not storage.exists(digest):
        raise NotFound("the artifact's file is gone from the store", hint="run the job again")
    if _matches(request.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    headers |= {"Content-Type": media_type, "Content-Length": str(size_bytes)}
    if method == "HEAD":
        return Response(headers=headers)
    if (link := storage.link(digest, media_type, headers["Content-Disposition"])) is not None:
        return Response(status_code=307, headers={"Location": link, "Cache-Control": "private, no-store"})
    wanted = parse_range(request.get("range"), size_bytes)
    if wanted is None or request.get("if-range", etag) != etag:
        return StreamingResponse(storage.open(digest), headers=headers)
    start, end = wanted
    headers |= {"Content-Length": str(end - start), "Content-Range": f"bytes {start}-{end - 1}/{size_bytes}"}
    return StreamingResponse(storage.open(digest, start, end), 206, headers=headers)


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """The bytes from, and up to without; None: the whole file.

    What is no single range of bytes counts as not sent, as RFC 9110, 14.2 allows: several ranges at once too.

    Raises:
        RangeNotSatisfiable: it begins behind the file's end.
    """
    match = _RANGE.fullmatch(header) if header is not None else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size_bytes - int(last))
    if start >= size_bytes:
        raise RangeNotSatisfiable(
            f"the file has {size_bytes} bytes", headers={"Content-Range": f"bytes */{size_bytes}"}
        )
    return start, min(int(last) + 1, size_bytes) if first and last else size_bytes


def disposition(filename: str) -> str:
    """`Content-Disposition` of a download: a plain name for old clients, and the whole name in UTF-8."""
    plain = _SAFE.sub("_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def _matches(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    named = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]  # our tags hold no comma
    return etag in named or named == ["*"]
