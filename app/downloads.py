"""Downloads that go on where they broke off: ranges (RFC 9110, 14) under `If-Range`, checked against the digest."""

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

BREAKS = 5  # without a new byte in between

Open = Callable[[str, Mapping[str, str]], httpx.Response]


class DamagedDownload(Exception):
    """The bytes are not those that the service promised; nothing was left."""


def download(
    open_: Open,
    path: str,
    artifact: Mapping[str, Any],
    target: Path,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fetch an artifact's content into `target`, which appears whole or not at all.

    The part that is there so far lies beside it, under a name with the digest, so that another file's part is never
    taken for it.

    Raises:
        DamagedDownload: the digest is another.
        httpx.TransportError: the connection broke too often.
    """
    digest, size = artifact["sha256"], artifact["size_bytes"]
    part = target.with_name(f"{target.name}.{digest[:12]}.part")
    breaks = 0
    while True:
        had = part.stat().st_size if part.exists() else 0
        if had >= size > 0:
            break
        try:
            _fetch(open_, path, digest, size, part, had, progress)
            break
        except httpx.TransportError:
            breaks = 0 if part.exists() and part.stat().st_size > had else breaks + 1
            if breaks >= BREAKS:
                raise
            time.sleep(0.25 * 2**breaks)
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        part.unlink()
        raise DamagedDownload(f"{target.name} should have the SHA-256 {digest}, what came has {found}")
    part.replace(target)


def _fetch(
    open_: Open,
    path: str,
    digest: str,
    size: int,
    part: Path,
    had: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    headers = {"Range": f"bytes={had}-", "If-Range": f'"{digest}"'} if had else {}
    # the bytes as they are: a compressed answer would have another digest and other ranges
    response = open_(path, {"Accept-Encoding": "identity", **headers})
    try:
        _check_promise(response, digest)
        goes_on = response.status_code == 206
        if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {had}-"):
            raise DamagedDownload(
                f"asked for bytes from {had} on, got {response.headers.get('Content-Range')}"
            )
        done = had if goes_on else 0
        with part.open("ab" if goes_on else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, size)
    finally:
        response.close()


def _check_promise(response: httpx.Response, digest: str) -> None:
    """Hold `Repr-Digest` (RFC 9530) or `ETag` against the artifact's digest, before anything is written."""
    promised = response.headers.get("Repr-Digest", "")
    expected = base64.b64encode(bytes.fromhex(digest)).decode()
    if promised:
        wrong = f"sha-256=:{expected}:" not in promised.replace(" ", "").split(",")
    else:
        wrong = response.headers.get("ETag") != f'"{digest}"'
    if wrong:
        raise DamagedDownload(
            f"the service promises other content ({promised or response.headers.get('ETag')})"
        )
