"""The C++ compiler that Inductor uses, found as Inductor finds it. Imports no torch."""

import os
import shutil

from app.errors import Unavailable

DEFAULT = "g++"


def compiler_command() -> str:
    """The compiler's name.

    Raises:
        Unavailable: there is none.
    """
    named = os.environ.get("CXX", DEFAULT)
    if shutil.which(named) is None:
        raise Unavailable(
            f"this machine has no C++ compiler called {named!r}, which compiling with Inductor needs",
            stage="building",
            hint="install g++ where workers serve this runtime, or name a compiler in their environment: CXX",
        )
    return named
