"""A sender and receiver that costs next to nothing, in a process of its own: `python -m benchmarks.wire KIND PORT KEY PATH`.

Sends the file by `sendfile`, or receives and counts; prints the seconds from the first byte of the first request to the
last byte of the last answer, and that answer's body.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

PART_BYTES = 64 * 2**20  # as `app.sending` does it
BUFFER_BYTES = 2**20
BOUNDARY = "------------------------0f1e2d3c4b5a69788796a5"  # as long as curl's


class Wire:
    """One kept-alive connection."""

    def __init__(self, port: int, key: str):
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._key = key

    def head(self, method: str, path: str, length: int, **fields: str) -> None:
        """Send the head of a request whose body has `length` bytes."""
        lines = {"Host": "127.0.0.1", "Content-Length": str(length), "Authorization": f"Bearer {self._key}"}
        lines |= {name.replace("_", "-"): value for name, value in fields.items()}
        said = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.send(f"{method} {path} HTTP/1.1\r\n{said}\r\n".encode())

    def send(self, data: bytes) -> None:
        """Send these."""
        self._socket.sendall(data)

    def file(self, path: Path, start: int, end: int) -> None:
        """Send a part of a file."""
        with path.open("rb") as file:
            while start < end:
                start += os.sendfile(self._socket.fileno(), file.fileno(), start, end - start)

    def answer(self, keep: bool = True) -> tuple[bytes, int]:
        """The answer's body, if it is to be kept, and its size. Raises RuntimeError where it is an error."""
        buffer = bytearray(BUFFER_BYTES)
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := self._socket.recv(65536)):
                raise RuntimeError("the connection was closed")
            head += more
        head, _, body = head.partition(b"\r\n\r\n")
        if head[9:10] != b"2":
            raise RuntimeError((head + b"\r\n\r\n" + body).decode())
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        size, kept = len(body), bytearray(body if keep else b"")
        while size < length:
            got = self._socket.recv_into(buffer)
            if got == 0:
                raise RuntimeError(f"{size} of {length} bytes came")
            size += got
            if keep:
                kept += memoryview(buffer)[:got]
        return bytes(kept), size


def bare(wire: Wire, path: Path, size: int) -> bytes:
    """One PUT to the bare handler."""
    wire.head("PUT", "/file", size)
    wire.file(path, 0, size)
    return wire.answer()[0]


def multipart(wire: Wire, path: Path, size: int) -> bytes:
    """One form."""
    before = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="net.onnx"\r\n\r\n'.encode()
    )
    after = f"\r\n--{BOUNDARY}--\r\n".encode()
    length = len(before) + size + len(after)
    wire.head("POST", "/v1/models", length, Content_Type=f"multipart/form-data; boundary={BOUNDARY}")
    wire.send(before)
    wire.file(path, 0, size)
    wire.send(after)
    return wire.answer()[0]


def resumable(wire: Wire, path: Path, size: int) -> bytes:
    """An upload in parts, and a model of it."""
    body = json.dumps({"name": "net.onnx", "size_bytes": size}).encode()
    wire.head("POST", "/v1/uploads", len(body), Content_Type="application/json")
    wire.send(body)
    upload = json.loads(wire.answer()[0])["id"]
    for start in range(0, size, PART_BYTES):
        end = min(start + PART_BYTES, size)
        fields = {"Content_Type": "application/partial-upload", "Upload_Offset": str(start)}
        wire.head("PATCH", f"/v1/uploads/{upload}", end - start, **fields)
        wire.file(path, start, end)
        wire.answer()
    body = json.dumps({"upload": upload}).encode()
    wire.head("POST", "/v1/models", len(body), Content_Type="application/json")
    wire.send(body)
    return wire.answer()[0]


def download(wire: Wire, path: Path, size: int) -> bytes:
    """GET of a path, which must have so many bytes."""
    wire.head("GET", str(path), 0)
    got = wire.answer(keep=False)[1]
    if got != size:
        raise RuntimeError(f"{got} bytes came, not {size}")
    return b"{}"


def main(kind: str, port: str, key: str, path: str, size: str) -> None:
    """Do one transfer and print how it went."""
    transfer = {"bare": bare, "multipart": multipart, "resumable": resumable, "download": download}[kind]
    wire = Wire(int(port), key)
    started = time.perf_counter()
    body = transfer(wire, Path(path), int(size))
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "answer": json.loads(body)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
