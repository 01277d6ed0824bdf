"""One file a runtime, named after it: `@profiles(SPEC.name)` on a class that gives `recorded.Profiler`; the registry holds its instance."""

from collections.abc import Callable
from typing import TypeVar

from workers.profiling.recorded import Profiler
from workers.registry import Registry

P = TypeVar("P", bound=Profiler)

registry: Registry[Profiler] = Registry(__name__, "profiler")


def profiles(name: str) -> Callable[[type[P]], type[P]]:
    """Decorator: one instance of this class profiles the runtime called `name`."""

    def bind(cls: type[P]) -> type[P]:
        registry.implements(name)(cls())
        return cls

    return bind
