"""One file a runtime: `@implements(SPEC.name)` on a class that gives `base.Runtime`; the registry holds its instance."""

from collections.abc import Callable
from typing import TypeVar

from workers.registry import Registry
from workers.runtimes.base import Runtime

R = TypeVar("R", bound=Runtime)

registry: Registry[Runtime] = Registry(__name__, "runtime")


def implements(name: str) -> Callable[[type[R]], type[R]]:
    """Decorator: one instance of this class is the runtime called `name`."""

    def bind(cls: type[R]) -> type[R]:
        registry.implements(name)(cls())
        return cls

    return bind
