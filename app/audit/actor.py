"""Who acts: the request that this code runs for, if there is one. Commands and workers run for none."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

# The `state` of the ASGI scope: `request_id`, and `principal` once the key is known. Threads of a request see it too.
REQUEST_STATE: ContextVar[Mapping[str, Any] | None] = ContextVar("request_state", default=None)
