"""Where webhooks reach: public addresses and allowed ones, by the address that was checked, for a bounded time."""

import asyncio
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.webhooks import transport
from app.webhooks.addresses import Allowed, is_public
from app.webhooks.transport import Outcome
from tests.app.webhooks.receiver import Receiver, receiving

LOOPBACK = Allowed.parse("127.0.0.1")
NOTHING = Allowed.parse("")


def post(url: str, allowed: Allowed = LOOPBACK) -> Outcome:
    with ThreadPoolExecutor(1) as resolver:
        return asyncio.run(transport.post(url, b"{}", {"webhook-id": "msg_1"}, allowed, resolver))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What the name server answers, in turn; asked more often, it knows nothing."""
    answers: list[tuple[str, list[str]]] = []
    known = socket.getaddrinfo

    def getaddrinfo(host: str, port: Any, *arguments: Any, **named: Any) -> list[Any]:
        if isinstance(host, str) and host.endswith(".test"):
            if not answers:
                raise socket.gaierror(socket.EAI_NONAME, "unknown")
            name, addresses = answers.pop(0)
            assert host == name
            found = [known(address, port, *arguments, **named) for address in addresses]
            return [entry for entries in found for entry in entries]
        return known(host, port, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return answers


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.1",
        "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1",
        "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "168.63.129.16",
        "::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::127.0.0.1", "::a9fe:a9fe",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
        "2002:7f00:1::", "2002:a9fe:a9fe::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1",
        "ff02::1", "ff0e::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_everybodys(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not NOTHING.takes("example.org", ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "93.184.216.34",
        "172.32.0.1",
        "100.128.0.1",
        "2606:4700::1111",
        "64:ff9b::101:101",
        "::ffff:1.1.1.1",
    ],
)
def test_addresses_that_are(address: str) -> None:
    assert is_public(ip_address(address))


def test_what_the_administrator_allows() -> None:
    allowed = Allowed.parse(" hooks.Internal , 10.1.0.0/16,192.168.7.7, fd00::/8 ")
    assert allowed.takes("HOOKS.internal.", IPv4Address("10.9.9.9"))
    assert allowed.takes("other", IPv4Address("10.1.2.3"))
    assert allowed.takes("other", ip_address("fd12::1"))
    assert allowed.takes("other", IPv4Address("192.168.7.7"))
    assert not allowed.takes("other", IPv4Address("10.2.0.1"))
    assert not allowed.takes("evil-hooks.internal", IPv4Address("10.9.9.9"))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "017700000001",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ],
)
def test_nothing_is_sent_to_a_private_address_however_it_is_written(receiver: Receiver, host: str) -> None:
    outcome = post(f"http://{host}:{receiver.port}/", NOTHING)
    assert outcome == Outcome(None, "the host resolves to an address that webhooks may not reach")
    assert receiver.messages == []


def test_one_private_address_among_public_ones_is_enough(receiver: Receiver, names: list[Any]) -> None:
    names.append(("hooks.test", ["93.184.216.34", "127.0.0.1"]))
    assert "may not reach" in str(post(f"http://hooks.test:{receiver.port}/", NOTHING).problem)
    assert receiver.messages == []


def test_a_name_is_resolved_once_and_the_checked_address_is_called(
    receiver: Receiver, names: list[Any]
) -> None:
    """A name server that answers otherwise the second time gets nobody anywhere."""
    names += [("hooks.test", ["127.0.0.1"]), ("hooks.test", ["169.254.169.254"])]
    assert post(f"http://hooks.test:{receiver.port}/path?query=1") == Outcome(200, None)
    assert receiver.messages[0][0]["Host"] == f"hooks.test:{receiver.port}"
    assert len(names) == 1


def test_a_name_that_is_unknown(names: list[Any]) -> None:
    assert post("http://hooks.test/") == Outcome(None, "the host name cannot be resolved")


def test_the_next_address_is_tried_where_one_does_not_answer(receiver: Receiver, names: list[Any]) -> None:
    names.append(("hooks.test", ["127.0.0.2", "127.0.0.1"]))
    outcome = post(f"http://hooks.test:{receiver.port}/", Allowed.parse("127.0.0.0/8"))
    assert outcome == Outcome(200, None)


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    receiver.statuses = [307]
    assert post(receiver.url) == Outcome(307, "the answer was 307: redirects are not followed")
    assert len(receiver.messages) == 1


def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert post(receiver.url) == Outcome(200, None)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"]
)
def test_a_receiver_that_drips_is_left_in_time(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "TOTAL_SECONDS", 0.5)
    with dripping(answer) as port:
        assert post(f"http://127.0.0.1:{port}/") == Outcome(None, "no answer within 0.5 seconds")


def test_a_long_answer_is_not_read_to_its_end() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"
    with dripping(head + b"x" * (transport.ANSWER_BYTES + 4096)) as port:
        assert post(f"http://127.0.0.1:{port}/") == Outcome(200, None)


def test_what_is_no_http_is_a_problem() -> None:
    with dripping(b"SSH-2.0-OpenSSH\r\n\r\n") as port:
        outcome = post(f"http://127.0.0.1:{port}/")
    assert outcome.status is None
    assert "RemoteProtocolError" in str(outcome.problem)


def test_tls_is_for_the_name_that_was_asked_for(
    names: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = self_signed(tmp_path, "hooks.test")
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    transport._tls.cache_clear()
    try:
        with receiving(server_side) as receiver:
            names += [("hooks.test", ["127.0.0.1"]), ("other.test", ["127.0.0.1"])]
            assert post(f"https://hooks.test:{receiver.port}/") == Outcome(200, None)
            refused = post(f"https://other.test:{receiver.port}/")
            assert "CERTIFICATE_VERIFY_FAILED" in str(refused.problem)
            assert "CERTIFICATE_VERIFY_FAILED" in str(post(f"https://127.0.0.1:{receiver.port}/").problem)
            assert len(receiver.messages) == 1
    finally:
        transport._tls.cache_clear()


@contextmanager
def dripping(answer: bytes) -> Iterator[int]:
    """A server that sends something, and then a byte now and then, for as long as anybody listens."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                try:
                    connection.sendall(answer)
                    while not over.wait(0.05):
                        connection.sendall(b"x" if answer else b"")
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()


def self_signed(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files
