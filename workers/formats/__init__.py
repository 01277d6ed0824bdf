"""One file a format of uploads: `@implements(SPEC.name)` on a class that gives `base.Format`; the registry holds its instance."""

from collections.abc import Callable
from typing import TypeVar

from workers.formats.base import Format
from workers.registry import Registry

F = TypeVar("F", bound=Format)

registry: Registry[Format] = Registry(__name__, "format")


def implements(name: str) -> Callable[[type[F]], type[F]]:
    """Decorator: one instance of this class is the format called `name`."""

    def bind(cls: type[F]) -> type[F]:
        registry.implements(name)(cls())
        return cls

    return bind
