"""Rules that say what would help: functions of a case, any number in a file, under the names that `docs/profiling.md` describes."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Literal

from workers.profiling.advising import Case, Finding
from workers.registry import Registry

Rule = Callable[[Case], Iterable[Finding]]

registry: Registry[Rule] = Registry(__name__, "rule")


def rule(name: str, of: Literal["inference", "training"] = "inference") -> Callable[[Rule], Rule]:
    """Decorator: this is a rule, asked about profiles of the one kind."""

    def bind(found: Rule) -> Rule:
        @wraps(found)
        def asked(case: Case) -> Iterable[Finding]:
            return found(case) if case.profile.of == of else ()

        return registry.implements(name)(asked)

    return bind
