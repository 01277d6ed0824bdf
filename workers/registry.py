"""Binds implementations to specs by name; one without the other fails at once."""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Generic, TypeVar

S = TypeVar("S")


class Registry(Generic[S]):
    """Implementations of one kind (passes, runtimes, metrics, formats), found by importing every file of a package."""

    def __init__(self, package: str, kind: str):
        self._package = package
        self._kind = kind
        self._found: dict[str, S] = {}
        self._loaded = False

    def implements(self, name: str) -> Callable[[S], S]:
        """Decorator: this is the implementation of the spec called `name`."""

        def bind(implementation: S) -> S:
            if name in self._found:
                raise RuntimeError(f"{self._kind} {name} is implemented twice")
            self._found[name] = implementation
            return implementation

        return bind

    def get(self, name: str) -> S:
        """The implementation of a spec.

        Raises:
            RuntimeError: there is none.
        """
        found = self.all()
        if name not in found:
            raise RuntimeError(f"{self._kind} {name} has no implementation")
        return found[name]

    def alone(self, name: str) -> S:
        """The implementation of a spec, importing its own file and no other: `a_b.py` for the spec `a-b`.

        Raises:
            ImportError: the file, or something that it needs, is not there.
            RuntimeError: the file has no such implementation.
        """
        importlib.import_module(f"{self._package}.{name.replace('-', '_')}")
        if name not in self._found:
            raise RuntimeError(f"{self._kind} {name} has no implementation in its file")
        return self._found[name]

    def all(self) -> dict[str, S]:
        """Every implementation by name."""
        if not self._loaded:
            package: ModuleType = importlib.import_module(self._package)
            for info in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{info.name}")
            self._loaded = True
        return dict(self._found)

    def check(self, specs: set[str]) -> None:
        """Hold the implementations against the catalog.

        Raises:
            RuntimeError: a spec has no implementation, or an implementation no spec.
        """
        found = set(self.all())
        if found != specs:
            raise RuntimeError(
                f"{self._kind}: specs without implementation {sorted(specs - found)}, "
                f"implementations without spec {sorted(found - specs)}"
            )
