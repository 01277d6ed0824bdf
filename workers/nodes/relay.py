"""Carries connections between the nodes of a training: one process beside each node's child, outside of its sandbox.

    python -m workers.nodes.relay     told on stdin, a JSON object a line: first a `Beginning`, later {node, peers: {node: host:port}}

Children keep network namespaces in which nobody can be reached: what gloo, NCCL and torchrun's store listen at knows no
secrets. A child asks for a node and a port of it through a socket that lies in its attempt's folder; the relay of that node
answers at the one port that is open, to those alone who prove that they know the group's token. Neither sends the
token: each signs what both have chosen at random (HMAC). What follows is carried as it is, unencrypted.
"""

import asyncio
import contextlib
import hmac
import json
import os
import secrets
import socket
import struct
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from workers.nodes.addresses import ports
from workers.sandbox.namespaces import die_with_parent

SOCKET = "relay.sock"
CHUNK = 1 << 20
NONCE, MAC = 16, 32
HANDSHAKE_SECONDS = 10.0
CONNECT_SECONDS = 10.0
WAIT_SECONDS = 300.0  # for the child to listen: one may begin long before another
SILENCE_SECONDS = 20  # a link that was cut and says nothing is given up

HELLO = struct.Struct("!cHI")  # kind, node, port or number
CONTROL, OUT, TAKE = b"C", b"O", b"T"
CALL = struct.Struct("!IH")  # number, port: "somebody wants this port; take them by this number"


class Beginning(BaseModel):
    """What a relay is told first."""

    parent: int
    host: str  # where it listens
    folder: Path  # where its socket for the child lies: the child can read it and write nothing there
    token: str


class Line(NamedTuple):
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Relay:
    """One node's."""

    def __init__(self, beginning: Beginning):
        self._token = bytes.fromhex(beginning.token)
        self._allowed = frozenset[int]()
        self._peers: asyncio.Future[dict[int, tuple[str, int]]] = asyncio.get_running_loop().create_future()
        self._control: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        self._called: dict[int, asyncio.Future[Line]] = {}
        self._count = 0

    def meet(self, node: int, peers: dict[str, str]) -> None:
        """Which node this is, and where the relays of the others are. Until then, nobody is let in."""
        self._allowed = frozenset(ports(node))
        found = {}
        for other, where in peers.items():
            host, _, port = where.rpartition(":")
            found[int(other)] = (host.strip("[]"), int(port))
        if not self._peers.done():
            self._peers.set_result(found)

    async def from_child(self, line: Line) -> None:
        """The child wants something: to be called, to reach another node, or to take who called."""
        kind, node, number = HELLO.unpack(await line.reader.readexactly(HELLO.size))
        if kind == CONTROL and not self._control.done():
            self._control.set_result(line.writer)
            await line.reader.read()
        elif kind == OUT:
            await joined(line, await self._reach(node, number))
        elif kind == TAKE and (waiting := self._called.pop(number, None)) is not None:
            waiting.set_result(line)
            await line.writer.wait_closed()

    async def from_node(self, line: Line) -> None:
        """Somebody connects from outside."""
        port = await asyncio.wait_for(self._prove(line), HANDSHAKE_SECONDS)
        await asyncio.wait_for(asyncio.shield(self._peers), WAIT_SECONDS)
        if port not in self._allowed:
            return
        control = await asyncio.wait_for(asyncio.shield(self._control), WAIT_SECONDS)
        self._count += 1
        number = self._count
        taken = self._called[number] = asyncio.get_running_loop().create_future()
        control.write(CALL.pack(number, port))
        try:
            await joined(line, await asyncio.wait_for(taken, WAIT_SECONDS))
        finally:
            self._called.pop(number, None)

    async def _prove(self, line: Line) -> int:
        theirs = await line.reader.readexactly(NONCE)
        ours = secrets.token_bytes(NONCE)
        line.writer.write(ours + self._signed(b"answers", theirs, ours))
        proof = await line.reader.readexactly(MAC)
        port = await line.reader.readexactly(2)
        if not hmac.compare_digest(proof, self._signed(b"calls", theirs, ours, port)):
            raise ConnectionRefusedError
        return int.from_bytes(port, "big")

    async def _reach(self, node: int, port: int) -> Line:
        host, there = (await asyncio.wait_for(asyncio.shield(self._peers), WAIT_SECONDS))[node]
        opening = asyncio.open_connection(host, there, limit=CHUNK)
        line = Line(*await asyncio.wait_for(opening, CONNECT_SECONDS))
        keep_watch(line)
        try:
            await asyncio.wait_for(self._call(line, port), HANDSHAKE_SECONDS)
        except BaseException:
            line.writer.transport.abort()
            raise
        return line

    async def _call(self, line: Line, port: int) -> None:
        ours = secrets.token_bytes(NONCE)
        line.writer.write(ours)
        theirs = await line.reader.readexactly(NONCE)
        proof = await line.reader.readexactly(MAC)
        if not hmac.compare_digest(proof, self._signed(b"answers", ours, theirs)):
            raise ConnectionRefusedError
        wanted = port.to_bytes(2, "big")
        line.writer.write(self._signed(b"calls", ours, theirs, wanted) + wanted)

    def _signed(self, *parts: bytes) -> bytes:
        return hmac.digest(self._token, b"|".join(parts), "sha256")


async def joined(one: Line, other: Line) -> None:
    """Carry bytes both ways until both have said all, or one is broken: then both are."""
    ways = [asyncio.ensure_future(_carry(*ends)) for ends in ((one, other), (other, one))]
    done, open_ways = await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
    broken = bool(open_ways) or any(way.exception() is not None for way in done)
    for way in open_ways:
        way.cancel()
    for line in (one, other):
        if broken:
            line.writer.transport.abort()
        else:
            line.writer.close()


async def _carry(source: Line, target: Line) -> None:
    while data := await source.reader.read(CHUNK):
        target.writer.write(data)
        await target.writer.drain()
    target.writer.write_eof()


def keep_watch(line: Line) -> None:
    """Let the system find out that the other end is gone, though nobody says so."""
    held: socket.socket = line.writer.get_extra_info("socket")
    held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}.items():
        if hasattr(socket, name):
            held.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)


async def quietly(work: Coroutine[Any, Any, None], line: Line) -> None:
    """What becomes of one connection is no other's matter: where it fails, it is closed."""
    try:
        await work
    except (OSError, EOFError, TimeoutError, KeyError, struct.error):
        line.writer.transport.abort()
    finally:
        line.writer.close()


async def serve() -> None:
    """Carry until stdin ends. Says the port on stdout once it listens."""
    told = await _lines()
    beginning = Beginning.model_validate_json(await told.readline())
    die_with_parent(beginning.parent)
    relay = Relay(beginning)

    async def outer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        keep_watch(line)
        await quietly(relay.from_node(line), line)

    async def inner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        await quietly(relay.from_child(line), line)

    beginning.folder.mkdir(mode=0o700)
    folder = os.open(beginning.folder, os.O_PATH)  # a socket's path has 107 characters at most
    await asyncio.start_unix_server(inner, f"/proc/self/fd/{folder}/{SOCKET}", limit=CHUNK)
    server = await asyncio.start_server(outer, beginning.host, 0, limit=CHUNK)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    while line := await told.readline():
        said = json.loads(line)
        relay.meet(said["node"], said["peers"])


async def _lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
