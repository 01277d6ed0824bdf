"""Downloads that go on where they broke off: ranges (RFC 9110, 14) under `If-Range`, checked against the digest.

A service may send its clients to where the bytes are (307): they are asked for there without the key.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.transport import is_loopback

BREAKS = 5  # without a new byte in between
TIMEOUT = httpx.Timeout(60.0, connect=10.0)

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
    with _opened(open_, path, {"Accept-Encoding": "identity", **headers}, digest) as response:
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


@contextmanager
def _opened(open_: Open, path: str, headers: Mapping[str, str], digest: str) -> Iterator[httpx.Response]:
    with closing(open_(path, headers)) as response:
        if response.status_code != 307:
            _check_promise(response, digest)
            yield response
            return
        link = response.url.join(response.headers["Location"])
    # another host's, most likely: our key is none of its business, and its validators are not our service's
    asked = {name: value for name, value in headers.items() if name != "If-Range"}
    with (
        httpx.Client(timeout=TIMEOUT, follow_redirects=True, trust_env=not is_loopback(str(link))) as other,
        other.stream("GET", link, headers=asked) as response,
    ):
        if response.status_code not in (200, 206):  # the link is over, or the store is down: a new one may do
            raise httpx.RemoteProtocolError(f"{link.host} answers {response.status_code}")
        yield response


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
