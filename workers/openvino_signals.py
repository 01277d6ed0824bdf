"""OpenVINO's CPU plugin kept from leaving a thread whose signals kill the process.

Each plugin that is made registers memory of its own as the thread's alternate signal stack, and frees it with itself, giving
back what was registered before (`SigAltStackSetup` in OpenVINO's `src/plugins/intel_cpu/src/plugin.cpp`). Where the older of
two plugins goes first, the younger one gives back memory that is gone; so does one that goes in another thread. The next
signal with a handler of Python's, such as that of a child that ended, cannot be delivered then: the process dies by SIGSEGV
and says nothing. Here every plugin is made at once with its core, and the thread's own stack is put back at once: what a
plugin frees later is never the one in use.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any


class _Stack(ctypes.Structure):
    """`stack_t` of Linux, see sigaltstack(2)."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def own_signal_stack() -> Iterator[None]:
    """The block leaves the calling thread's alternate signal stack as it was."""
    before = _Stack()
    _libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        _libc.sigaltstack(ctypes.byref(before), None)


def careful(core: type[Any]) -> type[Any]:
    """OpenVINO's class of cores, whose CPU plugin leaves the thread's signal stack alone."""

    class Core(core):  # type: ignore[misc]
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            with own_signal_stack():
                self.get_versions("CPU")  # makes the plugin

    return Core
