"""What PyTorch reaches on a device: large matrix products by precision, copies by size, and the cost of a small call.

Sizes go up while one call stays short, and the fastest of all calls counts: a peak is what nothing disturbed. On processors
the products are those of MKL and oneDNN, on GPUs those of cuBLAS.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

import psutil
import torch

Call = Callable[[], Any]
SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)  # of square matrices
LONGEST_CALL = {"cpu": 0.05, "cuda": 0.02}  # seconds, from which on no larger size is tried
LEAST_SIZE = 1024  # that is tried in any case: threads that others keep waiting make small products slow
SECONDS = 0.25  # for each size
LEAST_CALLS, MOST_SECONDS = 5, 2.0
LARGE_COPY = {"cpu": 256 << 20, "cuda": 1 << 30}  # bytes of each side
SMALL_COPIES = [1 << power for power in range(15, 27)]  # bytes of each side
CLEARLY = 2.0  # times the large copy's rate
SMALL = 16  # elements
SMALL_CALLS = 2000


def measured(device: str, threads: int) -> dict[str, Any]:
    """`app.profiles.schemas.Peaks`, measured now on `cpu` or `cuda`."""
    if device == "cpu":
        torch.set_num_threads(threads)
    with torch.inference_mode():
        flops = products(device)
        large = copy_rate(device, large_copy(device))
        small = {size: copy_rate(device, size) for size in SMALL_COPIES}
        # once more: memory is shared with others, who may have been busy the first time
        large = max(large, copy_rate(device, large_copy(device)))
        overhead = best(device, small_call(device), calls=SMALL_CALLS)
    return {
        "flops_per_s": flops,
        "bytes_per_s": large,
        **cache(small, large),
        "overhead_ms": 1000 * overhead,
        "threads": threads,
        "measured_with": f"torch {torch.__version__}",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def products(device: str) -> dict[str, float]:
    """FLOP/s by precision; those that are slower than fp32, as without instructions for them, are left out."""
    found: dict[str, float] = {}
    for precision, make in _products(device).items():
        try:
            rate = product_rate(device, make, found.get("fp32", 0.0))
        except (RuntimeError, NotImplementedError):  # the library has none for this device
            continue
        if rate >= found.get("fp32", 0.0):
            found[precision] = rate
    return found


def product_rate(device: str, make: Callable[[int], Call], least: float = 0.0) -> float:
    """FLOP/s of the best size of a product; sizes go up no further where small ones are slower than `least` by far."""
    rates: list[float] = []
    for size in SIZES:
        taken = best(device, make(size))
        rates.append(2 * size**3 / taken)
        hopeless = max(rates) < least / 4 and size >= LEAST_SIZE // 2
        if hopeless or (taken > LONGEST_CALL[device] and size >= LEAST_SIZE):
            break
    return max(rates)


def copy_rate(device: str, size: int) -> float:
    """Bytes a second, read and written together, of copying `size` bytes."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    calls = max(1, (1 << 22) // size)  # so that the clock, and starting a call, do not count
    return 2 * size / best(device, lambda: target.copy_(source), calls=calls)


def cache(small: Mapping[int, float], large: float) -> dict[str, Any]:
    """What stays in a cache, and its rate: sizes from the fastest on, as long as they are clearly faster than the large copy.

    Smaller ones than the fastest stay there too: calling takes most of their time.
    """
    fastest = max(small, key=lambda size: small[size])
    held = list(
        takewhile(
            lambda size: small[size] > CLEARLY * large, (size for size in sorted(small) if size >= fastest)
        )
    )
    if not held:
        return {"cached_bytes_per_s": None, "cached_bytes": None}
    return {"cached_bytes_per_s": small[fastest], "cached_bytes": 2 * max(held)}


def large_copy(device: str) -> int:
    """Bytes of each side of the large copy: far more than caches hold, and no more than there is room for."""
    free = psutil.virtual_memory().available if device == "cpu" else torch.cuda.mem_get_info()[0]
    return min(LARGE_COPY[device], free // 8 // 4096 * 4096)


def small_call(device: str) -> Call:
    """An operator on a few numbers."""
    values = torch.ones(SMALL, device=device)
    result = torch.empty_like(values)
    return lambda: torch.add(values, values, out=result)


def best(device: str, call: Call, calls: int = 1) -> float:
    """The seconds of one call, by the fastest of many rounds of `calls`; the first call does not count."""
    call()
    rounds = _rounds_cpu(call, calls) if device == "cpu" else _rounds_cuda(call, calls)
    return min(rounds) / calls


def _turns() -> Iterator[None]:
    started, number = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < SECONDS or (
        number < LEAST_CALLS and spent < MOST_SECONDS
    ):
        yield
        number += 1


def _rounds_cpu(call: Call, calls: int) -> Iterator[float]:
    for _ in _turns():
        started = time.perf_counter()
        for _ in range(calls):
            call()
        yield time.perf_counter() - started


def _rounds_cuda(call: Call, calls: int) -> Iterator[float]:
    for _ in _turns():
        events = [
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        ]
        events[0].record()
        for _ in range(calls):
            call()
        events[1].record()
        torch.cuda.synchronize()
        yield events[0].elapsed_time(events[1]) / 1000


def _products(device: str) -> dict[str, Callable[[int], Call]]:
    """By precision, fp32 first: from a size to a call."""
    found: dict[str, Callable[[int], Call]] = {"fp32": lambda size: _floating(device, torch.float32, size)}
    if device == "cuda":
        found["tf32"] = lambda size: _tf32(size)
        found["fp8"] = lambda size: _fp8(size)
    return {
        **found,
        "bf16": lambda size: _floating(device, torch.bfloat16, size),
        "fp16": lambda size: _floating(device, torch.float16, size),
        "int8": lambda size: _int8(device, size),
    }


def _floating(device: str, dtype: torch.dtype, size: int) -> Call:
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
    first, second = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(first)
    return lambda: torch.mm(first, second, out=result)


def _tf32(size: int) -> Call:
    call = _floating("cuda", torch.float32, size)
    torch.backends.cuda.matmul.allow_tf32 = True
    return call


def _int8(device: str, size: int) -> Call:
    first, second = (
        torch.randint(-128, 128, (size, size), dtype=torch.int8, device=device) for _ in range(2)
    )
    return lambda: torch._int_mm(first, second)


def _fp8(size: int) -> Call:
    first, second = (torch.randn(size, size, device="cuda").to(torch.float8_e4m3fn) for _ in range(2))
    scale = torch.ones((), device="cuda")
    return lambda: torch._scaled_mm(first, second.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)
