"""Clients that stall, and two that append at once."""

import socket

import pytest

from app.config import get_settings
from app.storage import get_storage
from tests.app.api.support import Server
from tests.app.uploads.line import until

MIB = 2**20


def head_of(server: Server, method: str, path: str, length: int, **fields: str) -> bytes:
    lines = {
        "Host": "x",
        "Authorization": f"Bearer {server.key}",
        "Content-Length": str(length),
        **{name.replace("_", "-"): value for name, value in fields.items()},
    }
    said = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{said}\r\n".encode()


def test_one_request_appends_at_a_time(server: Server) -> None:
    path = f"/v1/uploads/{server.client.post('/v1/uploads', json={'name': 'x'}).json()['id']}"
    partial = {"Content-Type": "application/partial-upload", "Upload-Offset": "0"}
    head = head_of(server, "PATCH", path, 2 * MIB, Content_Type=partial["Content-Type"], Upload_Offset="0")
    with socket.create_connection((server.host, server.port)) as first:
        first.sendall(head + bytes(MIB + 100))
        until(lambda: server.client.get(path).json()["offset_bytes"] >= MIB)
        second = server.client.patch(path, content=b"x", headers=partial)
        assert (second.status_code, "upload-offset" in second.headers) == (409, False)
    until(lambda: server.client.get(path).json()["offset_bytes"] == MIB + 100)  # all that came is kept
    partial["Upload-Offset"] = str(MIB + 100)
    until(lambda: server.client.patch(path, content=b"x", headers=partial).status_code == 204)


def test_a_stalled_client_is_cut_and_what_came_is_kept(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_UPLOAD_STALL_SECONDS", "0.5")
    get_settings.cache_clear()
    path = f"/v1/uploads/{server.client.post('/v1/uploads', json={'name': 'x'}).json()['id']}"
    kind = "application/partial-upload"
    head = head_of(server, "PATCH", path, 10 * MIB, Content_Type=kind, Upload_Offset="0")
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(head + bytes(MIB + 100))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # and the connection ends
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"upload_stalled" in answer
    assert server.client.get(path).json()["offset_bytes"] == MIB + 100
    form = b'--B\r\nContent-Disposition: form-data; name="file"; filename="m"\r\n\r\n' + bytes(MIB)
    head = head_of(server, "POST", "/v1/models", 10 * MIB, Content_Type="multipart/form-data; boundary=B")
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(head + form)
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert list(get_storage().digests()) == []
    assert get_storage().sweep(0) == 0  # nothing is left in the way of what comes
