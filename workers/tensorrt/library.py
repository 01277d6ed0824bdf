"""Which of the two libraries of one API is meant, and what it can do."""

import importlib
from dataclasses import dataclass
from typing import Any

from app.errors import Unavailable

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True)
class Library:
    """An imported library; `runtime` is its name in the catalog, and that of its distribution."""

    runtime: str
    trt: Any

    @property
    def version(self) -> str:
        """As in `1.7.1.116`."""
        return str(self.trt.__version__)

    @property
    def across(self) -> bool:
        """Whether it builds for GPUs that this machine need not have."""
        return hasattr(self.trt, "ComputeCapability")


def library(runtime: str) -> Library:
    """The library of a runtime.

    Raises:
        Unavailable: it is not installed, or one of its own libraries is missing.
    """
    try:
        return Library(runtime, importlib.import_module(MODULES[runtime]))
    except (ImportError, OSError) as error:
        raise Unavailable(
            f"{runtime} cannot be imported: {error}",
            stage="building",
            hint=f"install it on the workers that serve this runtime (the extra `{runtime}` of this package)",
        ) from None
