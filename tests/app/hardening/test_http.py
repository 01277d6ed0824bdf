"""HTTP as attackers speak it: each is refused or answered plainly, and the next client is served."""

import json

import pytest

from tests.app.api.support import Server
from tests.app.hardening.wire import ask, connected, head, lives, rest, statuses

CLOSE = "Connection: close"
CHUNKED = "Transfer-Encoding: chunked"
JSON = "Content-Type: application/json"

REFUSED = {
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: x\n\n",
    "a folded field": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    "no host": head("GET", "/healthz", host=""),
    "two hosts": head("GET", "/healthz", "Host: y"),
    "two lengths": head("POST", "/v1/keys", "Content-Length: 2", "Content-Length: 3") + b"{}",
    "one length twice": head("POST", "/v1/keys", "Content-Length: 2", "Content-Length: 2") + b"{}",
    "a list of lengths": head("POST", "/v1/keys", "Content-Length: 2, 2") + b"{}",
    "a signed length": head("POST", "/v1/keys", "Content-Length: +2") + b"{}",
    "an endless length": head("POST", "/v1/keys", "Content-Length: " + "9" * 30),
    "length, then chunks": head("POST", "/v1/keys", "Content-Length: 5", CHUNKED) + b"0\r\n\r\n",
    "chunks, then length": head("POST", "/v1/keys", CHUNKED, "Content-Length: 5") + b"0\r\n\r\n",
    "another coding": head("POST", "/v1/keys", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "chunked twice": head("POST", "/v1/keys", CHUNKED, CHUNKED) + b"0\r\n\r\n",
    "a space before the colon": head("POST", "/v1/keys", "Transfer-Encoding : chunked") + b"0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /v1/keys HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "NUL in a value": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    "CR in a value": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
    "a space in the address": b"GET /heal thz HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes in the address": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "another version": b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an unknown method": b"FETCH /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": head("CONNECT", "elsewhere:443"),
}


def test_what_is_no_http_is_refused_and_the_connection_closed(server_sqlite: Server) -> None:
    for name, sent in REFUSED.items():
        smuggled = head("GET", "/healthz", CLOSE)
        answer = ask(server_sqlite, sent + smuggled)
        assert statuses(answer) == [400], (name, answer)
        assert b"application/problem+json" in answer, name
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["code"] == "malformed_request", name
    assert lives(server_sqlite)


@pytest.mark.parametrize("size", ["zz", "-1", "fffffffffffffffff", "0x10", "3;a=b\n"])
def test_wrong_chunk_sizes(server_sqlite: Server, size: str) -> None:
    sent = head("POST", "/v1/keys", CHUNKED, JSON, key=server_sqlite.key) + f"{size}\r\nabc\r\n".encode()
    answer = ask(server_sqlite, sent + head("GET", "/healthz"))
    assert statuses(answer) in ([400], []), answer  # closed without an answer where one had begun
    assert lives(server_sqlite)


def test_oversize_heads(server_sqlite: Server) -> None:
    for sent in (
        head("GET", "/healthz?" + "a" * 100_000),
        head("GET", "/healthz", "X: " + "a" * 100_000),
        head("GET", "/healthz", *(f"X-{number}: {number}" for number in range(200))),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000,  # without an end
        b"GET /" + b"a" * 1_000_000,
    ):
        assert statuses(ask(server_sqlite, sent)) in ([431], [])  # []: reset while it was still sending
    assert lives(server_sqlite)


def test_bodies_that_are_larger_than_they_say(server_sqlite: Server) -> None:
    sent = head("POST", "/v1/keys", "Content-Length: 2", JSON, key=server_sqlite.key)
    answer = ask(server_sqlite, sent + b"{}" + head("GET", "/healthz", CLOSE))
    assert statuses(answer) == [422, 200]
    answer = ask(server_sqlite, sent + b"{} and more")  # taken for a request that is none
    assert statuses(answer) in ([422, 400], [422], [400], [])
    endless = head("POST", "/v1/keys", CHUNKED, JSON, CLOSE, key=server_sqlite.key)
    answer = ask(server_sqlite, endless + b"10000\r\n" + (b" " * 65536 + b"\r\n10000\r\n") * 64)
    assert statuses(answer) in ([413], [])
    assert lives(server_sqlite)


def test_pipelined_requests_are_answered_in_turn_up_to_a_bound(server_sqlite: Server) -> None:
    few = head("GET", "/healthz") + head("GET", "/v1/nowhere") + head("GET", "/healthz", CLOSE)
    assert statuses(ask(server_sqlite, few)) == [200, 404, 200]
    waiting = head("GET", "/readyz")
    assert len(statuses(ask(server_sqlite, waiting * 5000))) < 50
    assert lives(server_sqlite)


def test_methods_and_forms_of_address(server_sqlite: Server) -> None:
    answers = {
        "HEAD": (head("HEAD", "/healthz", CLOSE), 405),
        "OPTIONS": (head("OPTIONS", "/healthz", CLOSE), 405),
        "TRACE": (head("TRACE", "/healthz", "X-Secret: of-the-client", CLOSE), 405),
        "OPTIONS *": (head("OPTIONS", "*", CLOSE), 404),
        "absolute": (head("GET", "http://elsewhere/healthz", CLOSE), 200),
        "two slashes": (head("GET", "//elsewhere/..", CLOSE), 404),
        "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        "an upgrade": (head("GET", "/healthz", "Connection: Upgrade, close", "Upgrade: websocket"), 200),
    }
    for name, (sent, status) in answers.items():
        answer = ask(server_sqlite, sent)
        assert statuses(answer) == [status], (name, answer)
        assert b"of-the-client" not in answer
        assert b"elsewhere/healthz" not in answer
    assert lives(server_sqlite)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/artifacts/..%2f..%2f..%2fetc%2fpasswd/content",
        "/v1/artifacts/%2e%2e/%2e%2e/etc/passwd",
        "/v1/../../etc/passwd",
        "/v1/artifacts/%252e%252e%252f/content",
        "/v1/artifacts/..%5c..%5cwindows/content",
        "/v1/models/%c0%ae%c0%ae",
        "/v1/models/mdl_%00",
        "/v1/jobs/%0d%0aSet-Cookie:%20a=b",
    ],
)
def test_paths_lead_nowhere(server_sqlite: Server, path: str) -> None:
    answer = ask(server_sqlite, head("GET", path, CLOSE, key=server_sqlite.key))
    assert statuses(answer) in ([404], [422])
    fields = answer.split(b"\r\n\r\n")[0].lower()
    assert b"set-cookie" not in fields


def test_answers_carry_no_fields_that_a_client_wrote(server_sqlite: Server) -> None:
    sent = head("GET", "/healthz", "X-Request-ID: a%0d%0aSet-Cookie: a=b", CLOSE)
    fields = ask(server_sqlite, sent).split(b"\r\n\r\n")[0].lower()
    assert b"set-cookie" not in fields
    assert b"server:" not in fields
    assert b"access-control-allow" not in fields


def test_a_client_that_waits_for_100_continue_is_refused_before_it_sends(server_sqlite: Server) -> None:
    expecting = ("Expect: 100-continue", "Content-Length: 1000000", JSON, CLOSE)
    answer = ask(server_sqlite, head("POST", "/v1/jobs", *expecting))
    assert statuses(answer) == [401]
    with connected(server_sqlite) as opened:
        opened.sendall(head("POST", "/v1/jobs", *expecting, key=server_sqlite.key))
        assert statuses(opened.recv(65536)) == [100]
        opened.sendall(b" " * 1_000_000)
        assert statuses(rest(opened)) == [422]
