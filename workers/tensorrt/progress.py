"""A build's progress, from the library's phases to ours."""

from collections.abc import Callable
from typing import Any

from workers.tensorrt.library import Library

Report = Callable[[int, int, str], None]


def monitor(library: Library, report: Report) -> Any:
    """A progress monitor for the library: tells how many steps of the outermost phase are done, and the inner phase's name."""
    trt = library.trt
    base: Any = trt.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases = Phases(report)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._phases.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._phases.finish(phase_name)

    return Monitor()


class Phases:
    """Nested phases with numbers of steps; the outermost one counts."""

    def __init__(self, report: Report):
        self._report = report
        self._outer: str | None = None
        self._done = self._total = 0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins; one without a parent is the outermost."""
        if not parent:
            self._outer, self._done, self._total = name, 0, steps
        self._report(self._done, self._total, name)

    def step(self, name: str, step: int) -> None:
        """A step of a phase, counted from 0, is over."""
        if name == self._outer:
            self._done = step + 1
            self._report(self._done, self._total, name)

    def finish(self, name: str) -> None:
        """A phase is over."""
        if name == self._outer:
            self._report(self._total, self._total, name)
            self._outer = None
