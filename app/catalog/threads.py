"""The threads that a target asks for: more than there are processors wait for each other, and load the machine for nothing."""

from collections.abc import Mapping
from typing import Any

NAMES = ("threads", "inter_op_threads")


def threads_of(params: Mapping[str, Any]) -> dict[str, int]:
    """By parameter of a runtime: how many it asks for. 0 is as many as there are."""
    return {name: int(params[name]) for name in NAMES if params.get(name)}
