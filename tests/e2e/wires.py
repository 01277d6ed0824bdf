"""Network namespaces on one machine, wired by a bridge whose lines can be cut: each is a host for a worker."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

NETWORK = "10.231.77"


def missing() -> str | None:
    """Why there can be none here; None where there can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    if shutil.which("ip") is None:
        return "there is no `ip`"
    name = f"bnt{os.getpid()}"
    try:
        ip("link", "add", name, "type", "bridge")
        ip("netns", "add", name)
    except subprocess.CalledProcessError:
        return "this kernel makes no bridges or named namespaces"
    finally:
        for command in (("link", "del", name), ("netns", "del", name)):
            with suppress(subprocess.CalledProcessError):
                ip(*command)
    return None


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@dataclass(frozen=True)
class Host:
    """A namespace and its line to the bridge."""

    name: str
    line: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """What is put before a command that is to run there, on a machine of that name."""
        named = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name)
        return ("ip", "netns", "exec", self.name, *named)

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        ip("link", "set", self.line, "down")

    def heal(self) -> None:
        """As before."""
        ip("link", "set", self.line, "up")


@contextmanager
def wired(count: int) -> Iterator[tuple[str, list[Host]]]:
    """So many hosts, and the address of this machine on their network."""
    mark = os.getpid() % 100_000
    bridge = f"bnb{mark}"
    hosts = [
        Host(f"bnh{mark}-{number}", f"bnl{mark}-{number}", f"{NETWORK}.{number + 2}")
        for number in range(count)
    ]
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", f"{NETWORK}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for host in hosts:
            ip("netns", "add", host.name)
            ip("link", "add", host.line, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            ip("link", "set", host.line, "master", bridge)
            ip("link", "set", host.line, "up")
            ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for name in ("lo", "eth0"):
                ip("-n", host.name, "link", "set", name, "up")
        yield f"{NETWORK}.1", hosts
    finally:
        for host in hosts:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", host.name)
        with suppress(subprocess.CalledProcessError):
            ip("link", "del", bridge)
