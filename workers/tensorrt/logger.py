"""What a library says while it works: the only place where it tells why something failed."""

import re
from typing import Any

from workers.tensorrt.library import Library

ERRORS = ("INTERNAL_ERROR", "ERROR")
NO_DRIVER = re.compile(
    r"cudaError (35|100)\b.*(driver version is insufficient|no CUDA-capable device)", re.DOTALL
)
_CATCH = "catchCudaError"  # asks for a GPU in passing, and goes on where there is none
_PLACE = re.compile(r"\s*\(?In \w[\w:<>, ~]* at /\S+?:\d+\)?")
_OUTER = re.compile(r"^I?\w+::\w+: Error Code \d+: (API Usage Error |Internal Error )?")


def listen(library: Library) -> Any:
    """A logger for the library that keeps what it hears: `lines`, [(severity, text)], least important ones left out."""
    trt = library.trt
    base: Any = trt.ILogger

    class Heard(base):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            if severity.name in (*ERRORS, "WARNING"):
                self.lines.append((severity.name, text))

    return Heard()


def complaints(heard: Any) -> list[str]:
    """The errors that were told, without noise, doubles and places in the library's own source, in order."""
    told = [plain(text) for severity, text in heard.lines if severity in ERRORS and not is_noise(text)]
    return list(dict.fromkeys(told))


def warnings(heard: Any) -> list[str]:
    """The warnings that were told, in order, each once."""
    return list(dict.fromkeys(plain(text) for severity, text in heard.lines if severity == "WARNING"))


def is_noise(text: str) -> bool:
    """Whether a line says no more than that this machine has no GPU, where none was needed."""
    return _CATCH in text and NO_DRIVER.search(text) is not None


def plain(text: str) -> str:
    """A line without the places in the library's source and the frame around its reason."""
    lines = [line for line in text.splitlines() if line.strip() and not is_noise(line)]
    kept = _PLACE.sub("", " ".join(line.strip() for line in lines))
    kept = _OUTER.sub("", kept).strip()
    if kept.startswith("(") and _closes_last(kept):
        kept = kept[1:-1]
    if kept.count(")") == kept.count("(") + 1 and kept.endswith(")"):
        kept = kept[:-1]
    if kept.count("(") == kept.count(")") + 1 and kept.startswith("("):
        kept = kept[1:]
    return kept.strip()


def _closes_last(text: str) -> bool:
    """Whether the first parenthesis closes with the last letter."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return index == len(text) - 1
    return False
