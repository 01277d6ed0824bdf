"""The relay's process, as a supervisor holds it."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from app.errors import Unavailable
from workers.nodes.relay import Beginning

FOLDER = "nodes"  # below an attempt's folder, where its child reads and cannot write
START_SECONDS = 60.0


class Carrier:
    """A relay that listens at one port of `host` until it is closed."""

    def __init__(self, folder: Path, host: str, token: str):
        """`folder`: the attempt's.

        Raises:
            Unavailable: it cannot listen there.
        """
        beginning = Beginning(parent=os.getpid(), host=host, folder=folder / FOLDER, token=token)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "workers.nodes.relay"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._say(beginning.model_dump_json())
        assert self._process.stdout is not None
        heard, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        line = self._process.stdout.readline() if heard else ""
        if not line:
            self._process.kill()
            _, printed = self._process.communicate()
            words = printed.strip().splitlines()
            raise Unavailable(
                f"this worker cannot listen at {host} for the other nodes of a training: {words[-1] if words else 'no answer'}",
                stage="training",
                hint="let BURNISH_TRAIN_ADDRESS be an address of the worker's machine that other workers reach",
            )
        port = json.loads(line)["port"]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def meet(self, node: int, peers: Mapping[int, str]) -> None:
        """Which node this is, and where the relays of all listen."""
        self._say(json.dumps({"node": node, "peers": {str(node): where for node, where in peers.items()}}))

    def close(self) -> None:
        """End it: every connection that it carries is cut."""
        self._process.kill()
        self._process.communicate()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone: whoever waits for it finds that out
