"""JAX on the device of a runtime: XLA's CPU, or the first TPU. Imports no torch: engines run without."""

import os
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from app.artifacts.accelerators import TPU, accelerators
from app.errors import InvalidParams, Unavailable

HINT = "install the extra `xla` of this package on the workers that serve this runtime"
TPU_HINT = "install `jax[tpu]` in the version that the engine's manifest names, on a machine with a TPU"
_THREADS = "NPROC"  # what XLA's CPU client takes for the number of processors
_started: list[int] = []  # the threads of this process


def library() -> ModuleType:
    """JAX with 64-bit types. Raises Unavailable where it is not installed."""
    try:
        import jax
        import jax.export
    except ImportError as error:
        raise Unavailable(f"JAX cannot be imported: {error}", hint=HINT) from None
    found: Any = jax
    found.config.update("jax_enable_x64", True)
    return jax


def start(platform: str, threads: int) -> ModuleType:
    """JAX for `cpu`, or for `tpu` and `cpu`, with so many threads on the CPU.

    XLA looks for devices and makes its threads once a process, when the first thing is computed: what was said first holds.

    Raises:
        Unavailable: JAX is not installed.
        InvalidParams: this process runs XLA with another number of threads already.
    """
    jax = library()
    if not _started:
        _started.append(threads)
        os.environ[_THREADS] = str(threads)
        jax.config.update("jax_platforms", "tpu,cpu" if platform == TPU and without_tpu() is None else "cpu")
    if _started != [threads]:
        raise InvalidParams(
            f"this process runs XLA with {_started[0]} threads already, asked for were {threads}",
            param="threads",
            hint="load the other engine in a process of its own",
        )
    return jax


def without_tpu() -> str | None:
    """Why JAX has no TPU on this machine; None: it has."""
    if TPU not in accelerators():
        return "there is no TPU on the machine that builds it"
    if find_spec("libtpu") is None:
        return "libtpu is not installed on the machine that builds it, and JAX finds no TPU without"
    return None


def device_of(jax: ModuleType, platform: str) -> Any:
    """The first device. Raises Unavailable where there is none that JAX can use."""
    try:
        return jax.devices(platform)[0]
    except RuntimeError as error:
        raise Unavailable(
            f"JAX finds no {platform.upper()} here: {error}", stage="loading", hint=TPU_HINT
        ) from None
