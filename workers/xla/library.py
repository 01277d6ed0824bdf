"""JAX and torchax as the runtimes use them (jax 0.10, torchax 0.0.13)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from app.errors import Unavailable
from workers.xla.devices import HINT

_TELEMETRY = "ENABLE_RUNTIME_UPTIME_TELEMETRY"  # of libtpu; torchax turns it on where nobody said otherwise


@cache
def lowerings() -> tuple[dict[Any, Any], Any]:
    """torchax' JAX functions by ATen operator, and the decompositions that they count on.

    Raises:
        Unavailable: it is not installed.
    """
    os.environ.setdefault(_TELEMETRY, "0")
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        with _named_tensors(), _no_new_device():
            from torchax import decompositions
            from torchax.ops import jaten, ops_registry  # noqa: F401 - jaten fills the registry
    except ImportError as error:
        raise Unavailable(f"torchax cannot be imported: {error}", stage="building", hint=HINT) from None
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)  # importing torchax turns it off for everybody
    return ops_registry.all_aten_ops, decompositions.DECOMPOSITIONS


@contextmanager
def _no_new_device() -> Iterator[None]:
    """Keep torchax from naming an accelerator `jax`: torch would ask it for its streams wherever it compiles or exports."""
    utils: Any = torch.utils
    whole: Any = torch
    renamed, registered = utils.rename_privateuse1_backend, whole._register_device_module

    def ignored(*_: Any) -> None: ...

    utils.rename_privateuse1_backend = whole._register_device_module = ignored
    try:
        yield
    finally:
        utils.rename_privateuse1_backend, whole._register_device_module = renamed, registered


@contextmanager
def _named_tensors() -> Iterator[None]:
    """Let torchax list overloads for named tensors while it is imported: torch 2.13 dropped them, and it fails for that alone."""
    packet: Any = torch._ops.OpOverloadPacket
    known = packet.__getattr__

    def overload(self: Any, key: str) -> Any:
        try:
            return known(self, key)
        except AttributeError:
            if "name" not in key.lower():
                raise
            return f"{self}.{key}"  # a key of tables that nothing asks for

    packet.__getattr__ = overload
    try:
        yield
    finally:
        packet.__getattr__ = known
