"""The one port that a node opens: who gets through, and to what."""

import hmac
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import Unavailable
from workers.nodes.addresses import STORE_PORT, address, ephemeral, ports
from workers.nodes.carrier import FOLDER, Carrier
from workers.nodes.relay import CALL, CONTROL, HELLO, MAC, NONCE, OUT, SOCKET, TAKE

TOKEN = "7a" * 32
SECONDS = 60.0
LISTENER = "127.0.0.1"


@pytest.fixture
def carrier(tmp_path: Path) -> Iterator[Carrier]:
    """The first node's, which knows of itself alone as node 1."""
    made = Carrier(tmp_path, LISTENER, TOKEN)
    try:
        made.meet(0, {0: made.address, 1: made.address})
        yield made
    finally:
        made.close()


def child(folder: Path, kind: bytes, node: int = 0, number: int = 0) -> socket.socket:
    """What a child's half says first."""
    held = os.open(folder / FOLDER, os.O_PATH)
    try:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(SECONDS)
        made.connect(f"/proc/self/fd/{held}/{SOCKET}")
    finally:
        os.close(held)
    made.sendall(HELLO.pack(kind, node, number))
    return made


def call(carrier: Carrier, port: int, token: str = TOKEN) -> socket.socket:
    """What another node's relay says first, with this token."""
    host, _, number = carrier.address.rpartition(":")
    line = socket.create_connection((host, int(number)), timeout=SECONDS)
    ours = secrets.token_bytes(NONCE)
    line.sendall(ours)
    said = line.recv(NONCE + MAC, socket.MSG_WAITALL)
    theirs, wanted = said[:NONCE], port.to_bytes(2, "big")
    proof = hmac.digest(bytes.fromhex(token), b"|".join((b"calls", ours, theirs, wanted)), "sha256")
    line.sendall(proof + wanted)
    return line


def closed(line: socket.socket) -> bool:
    try:
        return line.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_knows_the_token_reaches_a_port_of_the_node(carrier: Carrier, tmp_path: Path) -> None:
    with child(tmp_path, CONTROL) as control, call(carrier, STORE_PORT) as line:
        number, port = CALL.unpack(control.recv(CALL.size, socket.MSG_WAITALL))
        assert port == STORE_PORT
        with child(tmp_path, TAKE, number=number) as taken:
            line.sendall(b"question")
            assert taken.recv(8, socket.MSG_WAITALL) == b"question"
            taken.sendall(b"answer")
            assert line.recv(6, socket.MSG_WAITALL) == b"answer"
            taken.close()
            assert closed(line)


@pytest.mark.parametrize(
    ("token", "port"),
    [("00" * 32, STORE_PORT), (TOKEN, 22), (TOKEN, ephemeral(1)[0])],
    ids=["another token", "a port that is none of the training's", "another node's port"],
)
def test_others_get_nowhere(carrier: Carrier, tmp_path: Path, token: str, port: int) -> None:
    with child(tmp_path, CONTROL) as control:
        with call(carrier, port, token) as line:
            assert closed(line)
        control.setblocking(False)
        with pytest.raises(BlockingIOError):
            control.recv(1)


def test_noise_is_cut_off(carrier: Carrier) -> None:
    host, _, port = carrier.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: " + b"y" * 4096 + b"\r\n\r\n")
        said = b""
        while (data := _read(line)) != b"":
            said += data
        assert len(said) in (0, NONCE + MAC), "a nonce and its signature say nothing of the token"


def test_a_child_reaches_other_nodes_alone(carrier: Carrier, tmp_path: Path) -> None:
    with child(tmp_path, OUT, node=7, number=STORE_PORT) as line:
        assert closed(line)
    with child(tmp_path, CONTROL) as control, child(tmp_path, OUT, node=1, number=ephemeral(0)[3]) as line:
        number, port = struct.unpack("!IH", control.recv(CALL.size, socket.MSG_WAITALL))
        assert port == ephemeral(0)[3]
        with child(tmp_path, TAKE, number=number) as taken:
            line.sendall(b"there and back")
            assert taken.recv(14, socket.MSG_WAITALL) == b"there and back"


def test_an_address_that_is_not_the_machines(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"cannot listen at 192\.0\.2\.1") as caught:
        Carrier(tmp_path, "192.0.2.1", TOKEN)
    assert "BURNISH_TRAIN_ADDRESS" in (caught.value.hint or "")


def test_no_two_nodes_share_an_address_or_a_port() -> None:
    nodes = range(16)
    assert len({address(node) for node in nodes}) == len(nodes)
    every = [port for node in nodes for port in ports(node)]
    assert len(set(every)) == len(every)


def _read(line: socket.socket) -> bytes:
    try:
        return line.recv(4096)
    except ConnectionResetError:
        return b""
