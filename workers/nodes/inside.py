"""The relay's other half, inside of a child's sandbox: it listens for the other nodes, and connects for them.

python -m workers.nodes.inside PARENT FOLDER NODE NODES     prints a line once it listens
"""

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import Unavailable
from workers.nodes.addresses import address, ephemeral, ports
from workers.nodes.relay import (
    CALL,
    CHUNK,
    CONTROL,
    HELLO,
    OUT,
    SOCKET,
    TAKE,
    WAIT_SECONDS,
    Line,
    joined,
    quietly,
)
from workers.sandbox.namespaces import die_with_parent

READY = "listens"
RETRY_SECONDS = 0.05
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


@contextmanager
def carried(folder: Path, node: int, nodes: int) -> Iterator[None]:
    """While the block runs, the other nodes can be reached at their addresses, and reach this one.

    Raises:
        Unavailable: the relay outside is gone, or there is no namespace that was made a node's.
    """
    command = [sys.executable, "-P", "-m", "workers.nodes.inside", str(os.getpid())]
    with subprocess.Popen(
        [*command, str(folder), str(node), str(nodes)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != READY:
                raise Unavailable(
                    "this node cannot be joined with the others: its relay did not start",
                    stage="training",
                    hint="the job's log says why",
                )
            yield
        finally:
            process.kill()


def numbered(node: int) -> bool:
    """Whether this network namespace was made that node's (`namespaces.number`)."""
    try:
        first, last = map(int, PORT_RANGE.read_text().split())
    except (OSError, ValueError):
        return False
    return range(first, last + 1) == ephemeral(node)


async def serve(folder: Path, node: int, nodes: int) -> None:
    """Carry until the relay outside is gone."""
    held = os.open(folder, os.O_PATH)  # a socket's path has 107 characters at most
    path = f"/proc/self/fd/{held}/{SOCKET}"

    async def hello(kind: bytes, other: int, number: int) -> Line:
        line = Line(*await asyncio.open_unix_connection(path, limit=CHUNK))
        line.writer.write(HELLO.pack(kind, other, number))
        return line

    async def call_out(line: Line, other: int, port: int) -> None:
        await joined(line, await hello(OUT, other, port))

    async def let_in(number: int, port: int) -> None:
        line = await _connected(address(node), port)
        await quietly(_taken(line, number), line)

    async def _taken(line: Line, number: int) -> None:
        await joined(line, await hello(TAKE, 0, number))

    for other in range(nodes):
        for port in ports(other) if other != node else ():

            def come(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                to: tuple[int, int] = (other, port),
            ) -> asyncio.Task[None]:
                line = Line(reader, writer)
                return asyncio.ensure_future(quietly(call_out(line, *to), line))

            await asyncio.start_server(come, address(other), port, limit=CHUNK)
    control = await hello(CONTROL, 0, 0)
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    letting: set[asyncio.Task[None]] = set()
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            number, port = CALL.unpack(await control.reader.readexactly(CALL.size))
            task = asyncio.ensure_future(let_in(number, port))
            letting.add(task)
            task.add_done_callback(letting.discard)


async def _connected(host: str, port: int) -> Line:
    """A connection to a process of this node, which may be about to listen."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return Line(*await asyncio.open_connection(host, port, limit=CHUNK))
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
        await asyncio.sleep(RETRY_SECONDS)


def main(parent: int, folder: Path, node: int, nodes: int) -> None:
    """See `serve`."""
    die_with_parent(parent)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve(folder, node, nodes))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
