"""Versions of installed distributions, found under whichever name they were installed."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

# builds that share an import name
OTHER_NAMES = {"onnxruntime": ("onnxruntime-gpu",), "tensorflow": ("tensorflow-cpu",)}


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """By name the version that is installed.

    Raises:
        PackageNotFoundError: one is not installed under any of its names.
    """
    return {name: _version_of(name) for name in names}


def _version_of(name: str) -> str:
    for candidate in (name, *OTHER_NAMES.get(name, ())):
        try:
            return version(candidate)
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError(name)
