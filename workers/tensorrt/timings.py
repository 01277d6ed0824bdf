"""The times of layers' kernels, kept from build to build: TensorRT times a layer once on a GPU, not once a build.

An entry's key is the layer's content, and the library holds device and version of a whole cache against its own. What the
header does not say is in our key: the library's version, the GPU, and the parameters that change what is tried.

TensorRT for RTX has no such cache: it times nothing when it builds, and what it compiles on the GPU (`IRuntimeCache`) belongs
to running.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html (timing cache).
"""

from dataclasses import dataclass
from typing import Any

from app.catalog.runtime_params.tensorrt import TensorRtParams
from workers.gpu import gpus
from workers.memory import Memory
from workers.tensorrt.library import Library
from workers.tensorrt.logger import plain

NAME = "timing-cache"
MOST_BYTES = 64 * 2**20  # a larger one is begun anew
CHOICES = {  # what of the parameters changes the kernels that are tried
    "optimization_level", "workspace_mib", "tf32", "refit", "strip", "weight_streaming", "version_compatible",
    "hardware_compatibility",
}  # fmt: skip
_HARDWARE = ("name", "compute_capability", "memory_mib", "driver")


@dataclass
class Timings:
    """The cache that a build uses. `dropped`: why what was kept before was not used; None where it was, or nothing was kept."""

    cause: dict[str, Any]
    cache: Any
    before: bytes
    dropped: str | None


def attach(library: Library, config: Any, params: TensorRtParams, memory: Memory, heard: Any) -> Timings:
    """Give the configuration the timings that were kept, or an empty cache where they cannot be used."""
    cause = cause_of(library, params)
    kept = memory.recall(NAME, cause) or b""
    dropped = None
    if len(kept) > MOST_BYTES:
        kept, dropped = b"", f"it had grown to {len(kept)} bytes"
    mark = len(heard.lines)
    cache = _attached(config, kept)
    told = [plain(text) for _, text in heard.lines[mark:] if "timing cache" in text.lower()]
    if kept and (cache is None or told):
        dropped = f"the library does not take it: {'; '.join(told) or 'it is of another device'}"
        kept = b""
        cache = _attached(config, kept)
    del heard.lines[mark:]  # of the cache alone: a build that fails later did not fail for it
    return Timings(cause, cache, kept, dropped)


def keep(config: Any, timings: Timings, memory: Memory) -> dict[str, Any]:
    """Keep what the build has added, with what other builds kept meanwhile. Nothing here fails a build.

    Facts: `before_bytes` and `after_bytes` of the cache, `dropped` as in `Timings`.
    """
    told = {
        "before_bytes": len(timings.before),
        "after_bytes": len(timings.before),
        "dropped": timings.dropped,
    }
    content = _serialized(timings.cache)
    if not content or content == timings.before:
        return told
    meanwhile = memory.recall(NAME, timings.cause) or b""
    if meanwhile not in (b"", timings.before) and len(meanwhile) <= MOST_BYTES and timings.dropped is None:
        content = _combined(config, timings.cache, meanwhile) or content
    memory.remember(NAME, timings.cause, content)
    return {**told, "after_bytes": len(content)}


def cause_of(library: Library, params: TensorRtParams) -> dict[str, Any]:
    """What timings depend on besides the layers: library, first GPU (clocks and all but its serial number), parameters."""
    return {
        "library": library.runtime,
        "version": library.version,
        "gpu": [{name: gpu[name] for name in _HARDWARE} for gpu in gpus()[:1]],
        "params": params.model_dump(mode="json", include=CHOICES),
    }


def _attached(config: Any, kept: bytes) -> Any:
    """The cache that the configuration uses from now on; None where the library refuses this one."""
    try:
        cache = config.create_timing_cache(kept)
        taken = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
    except RuntimeError:
        return None
    return cache if taken else None


def _combined(config: Any, cache: Any, other: bytes) -> bytes:
    try:
        added = config.create_timing_cache(other)
        return (
            _serialized(cache) if added is not None and cache.combine(added, ignore_mismatch=False) else b""
        )
    except RuntimeError:
        return b""


def _serialized(cache: Any) -> bytes:
    try:
        content = None if cache is None else cache.serialize()
        return b"" if content is None else bytes(content)
    except RuntimeError:
        return b""
