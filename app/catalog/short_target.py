"""The short form of a target: `tensorrt-rtx:sm89` is the runtime with the GPUs that its engine is for."""

import re
from typing import Any

CAPABILITIES = re.compile(r"sm\d{2,3}(\+sm\d{2,3})*")


def short_target(text: str) -> dict[str, Any]:
    """`RUNTIME` or `RUNTIME:smNN[+smNN…]` as a target's plain data; other text after a colon is left in the name."""
    runtime, colon, rest = text.partition(":")
    if colon and (capabilities := capabilities_of(rest)):
        return {"runtime": runtime, "params": {"compute_capabilities": capabilities}}
    return {"runtime": text}


def capabilities_of(text: str) -> list[int]:
    """`sm86+sm89` as [86, 89]; [] where the text is of another form."""
    text = text.strip()
    return [int(one[2:]) for one in text.split("+")] if CAPABILITIES.fullmatch(text) else []
