"""Rules that say what would help: functions of a case, any number in a file, under the names that `docs/profiling.md` describes."""

from collections.abc import Callable, Iterable

from workers.profiling.advising import Case, Finding
from workers.registry import Registry

Rule = Callable[[Case], Iterable[Finding]]

registry: Registry[Rule] = Registry(__name__, "rule")
rule = registry.implements
