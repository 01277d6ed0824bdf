"""Clients that take their time: each is cut within a bound or costs little, and others are served at once."""

import resource
import select
import time
from contextlib import ExitStack

import pytest

from app.http import limits, protocol
from app.jobs import stream
from app.serve import raise_descriptor_limit
from tests.app.api.support import Server
from tests.app.hardening.wire import ask, connected, head, lives, rest, statuses
from tests.app.jobs.factories import RUNTIME, make_artifact, make_model, offer, optimize

JSON = "Content-Type: application/json"
SHORT = 0.5
LARGE = 32 * 1024 * 1024
READERS = 8
IDLE = 3000


def submit(server: Server) -> str:
    offer(RUNTIME)
    answer = server.client.post("/v1/jobs", json=optimize(make_model()))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"\r\n", head("GET", "/healthz") + b"GET"],
    ids=["nothing", "an address", "a field", "a line", "a second request"],
)
def test_slow_heads_end(server_sqlite: Server, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", SHORT)
    with connected(server_sqlite) as opened:
        opened.sendall(begun)
        assert lives(server_sqlite)
        expected = [200, 408] if begun.startswith(head("GET", "/healthz")) else [408]
        assert statuses(rest(opened)) == expected


def test_a_head_that_trickles_does_not_gain_time(
    server_sqlite: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 2 * SHORT)
    with connected(server_sqlite) as opened:
        opened.sendall(b"GET /healthz HTTP/1.1\r\n")
        for number in range(1000):
            if select.select([opened], [], [], SHORT / 5)[0]:
                break
            opened.sendall(b"X-%d: a\r\n" % number)
        assert statuses(rest(opened)) == [408]


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_slow_json_bodies_end(server_sqlite: Server, monkeypatch: pytest.MonkeyPatch, framing: str) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", SHORT)
    with connected(server_sqlite) as opened:
        opened.sendall(head("POST", "/v1/keys", framing, JSON, key=server_sqlite.key))
        assert lives(server_sqlite)
        assert statuses(rest(opened)) == [408]


def test_a_hundred_slow_bodies_hold_up_nobody(server_sqlite: Server) -> None:
    with ExitStack() as stack:
        for _ in range(100):  # more than there are threads
            opened = stack.enter_context(connected(server_sqlite))
            opened.sendall(head("POST", "/v1/keys", "Content-Length: 9", JSON, key=server_sqlite.key) + b"{")
        assert lives(server_sqlite)
        assert server_sqlite.client.get("/v1/jobs").status_code == 200


def test_a_download_that_nobody_reads_holds_little_and_ends(
    server_sqlite: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "WRITE_SECONDS", 4 * SHORT)
    artifact = make_artifact(submit(server_sqlite), b"\0" * LARGE)
    asked = head("GET", f"/v1/artifacts/{artifact}/content", key=server_sqlite.key)
    before = _resident_bytes()
    with ExitStack() as stack:
        readers = [stack.enter_context(connected(server_sqlite, receive_buffer=4096)) for _ in range(READERS)]
        for opened in readers:
            opened.sendall(asked)
            assert opened.recv(12) == b"HTTP/1.1 200"
        assert lives(server_sqlite)
        assert server_sqlite.client.get("/v1/jobs").status_code == 200
        assert _resident_bytes() - before < READERS * LARGE / 4
        time.sleep(2 * protocol.WRITE_SECONDS)  # a client that begins to read in time gets everything
        for opened in readers:
            assert len(rest(opened)) < LARGE  # cut


def test_streams_that_nobody_reads_hold_no_thread(
    server_sqlite: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.05)
    job = submit(server_sqlite)
    with ExitStack() as stack:
        for _ in range(200):
            opened = stack.enter_context(connected(server_sqlite))
            opened.sendall(head("GET", f"/v1/jobs/{job}/events", key=server_sqlite.key))
            assert opened.recv(12) == b"HTTP/1.1 200"
        assert lives(server_sqlite)
        assert server_sqlite.client.get("/v1/jobs").status_code == 200


@pytest.mark.slow
def test_thousands_of_idle_streams(server_sqlite: Server) -> None:
    raise_descriptor_limit()  # both ends of every connection are this process's
    job = submit(server_sqlite)
    before = _resident_bytes()
    with ExitStack() as stack:
        for _ in range(IDLE):
            opened = stack.enter_context(connected(server_sqlite))
            opened.sendall(head("GET", f"/v1/jobs/{job}/events", key=server_sqlite.key))
            assert opened.recv(12) == b"HTTP/1.1 200"
        assert _resident_bytes() - before < IDLE * 256 * 1024
        assert lives(server_sqlite)
        assert server_sqlite.client.get("/v1/jobs").status_code == 200
        server_sqlite.stop()


def test_streams_end_with_the_service(server_sqlite: Server) -> None:
    job = submit(server_sqlite)
    with connected(server_sqlite) as opened:
        opened.sendall(head("GET", f"/v1/jobs/{job}/events", key=server_sqlite.key))
        assert opened.recv(12) == b"HTTP/1.1 200"
        server_sqlite.stop()
        assert rest(opened).endswith(b"0\r\n\r\n")  # whole, not cut


def test_more_connections_than_a_process_may_hold(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_MAX_CONNECTIONS", "10")
    server_sqlite: Server = request.getfixturevalue("server_sqlite")
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(server_sqlite)).sendall(head("GET", "/healthz"))
        deadline = time.monotonic() + 30
        while True:
            answer = ask(server_sqlite, head("GET", "/v1/jobs", "Connection: close", key=server_sqlite.key))
            if statuses(answer) == [503] or time.monotonic() > deadline:
                break
        assert b"application/problem+json" in answer
        assert b"retry-after: 1" in answer.lower()
        assert lives(server_sqlite)  # a supervisor sees that the process is well
    assert server_sqlite.client.get("/v1/jobs").status_code == 200


def test_the_limit_on_descriptors_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        assert raise_descriptor_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
