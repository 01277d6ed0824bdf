"""A page in Chromium, driven over the DevTools protocol: what it draws, asks the network for, and complains of.

Protocol: https://chromedevtools.github.io/devtools-protocol/. Playwright would do the same with a Node.js of its own, 165 MB.
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 30.0
ANSWER_SECONDS = 60.0
LONGEST_MESSAGE = 1 << 28  # a screenshot in base64
OPTIONS = (
    *("--headless=new", "--remote-debugging-port=0", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-sync"),
    *("--disable-dev-shm-usage", "--force-color-profile=srgb", "--font-render-hinting=none"),
)  # fmt: skip

Json = dict[str, Any]


class NoAnswer(Exception):
    """Chromium did not start, or refused a call."""


def chromium() -> str | None:
    """Where Chromium is installed; None where it is not."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. `requested` are the URLs that it asked for, its own among them; `complaints` are errors and warnings of its console."""

    def __init__(self, socket: ClientConnection):
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._loaded = 0
        self.requested: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(
        self,
        url: str,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        scripts: bool = True,
        scale: float = 1.0,
    ) -> None:
        """Open an address, in a window of this size, and wait until it is loaded.

        Raises:
            NoAnswer: it does not load.
        """
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        before, end = self._loaded, time.monotonic() + ANSWER_SECONDS
        failed = self.call("Page.navigate", url=url).get("errorText")
        while not failed and self._loaded == before:
            self._take(end)
        if failed:
            raise NoAnswer(f"{url}: {failed}")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives there; a promise is waited for.

        Raises:
            NoAnswer: it throws.
        """
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise NoAnswer(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true.

        Raises:
            NoAnswer: it does not become so.
        """
        end = time.monotonic() + ANSWER_SECONDS
        while not self.value(expression):
            if time.monotonic() > end:
                raise NoAnswer(f"{expression} did not become true; complaints: {self.complaints}")
            time.sleep(0.05)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """The window as PNG, or the whole page."""
        data = self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole)
        )
        path.write_bytes(base64.b64decode(data["data"]))

    def _clip(self, whole: bool) -> Json:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def call(self, method: str, **params: Any) -> Json:
        """One call of the protocol.

        Raises:
            NoAnswer: it was refused.
        """
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        end = time.monotonic() + ANSWER_SECONDS
        while (answer := self._take(end)).get("id") != number:
            pass
        if "error" in answer:
            raise NoAnswer(f"{method}: {answer['error']['message']}")
        result: Json = answer["result"]
        return result

    def _take(self, end: float) -> Json:
        """The next message; what happened in the page is noted."""
        try:
            message: Json = json.loads(self._socket.recv(timeout=max(end - time.monotonic(), 0.001)))
        except TimeoutError as error:
            raise NoAnswer("Chromium does not answer") from error
        said = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded += 1
            case "Network.requestWillBeSent":
                self.requested.append(said["request"]["url"])
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                self.complaints.append(" ".join(str(one.get("value", one)) for one in said["args"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["exceptionDetails"]))
            case "Log.entryAdded" if said["entry"]["level"] in ("error", "warning"):
                self.complaints.append(said["entry"]["text"])
        return message


@contextmanager
def browser(executable: str) -> Iterator[Page]:
    """A page of a fresh Chromium, which ends with the block.

    Raises:
        NoAnswer: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        confined = [] if os.geteuid() else ["--no-sandbox"]  # its sandbox refuses root
        command = [executable, *OPTIONS, *confined, f"--user-data-dir={folder}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with connect(_address(process, Path(folder)), max_size=LONGEST_MESSAGE) as socket:
                    yield Page(socket)
            finally:
                process.terminate()


def _address(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Where its DevTools listen, once they do."""
    told, end = folder / "DevToolsActivePort", time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if told.exists() and len(lines := told.read_text().split()) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise NoAnswer("Chromium did not start")
