"""Whether Horovod is here, which few environments have (`make horovod-env`)."""

import subprocess
import sys
from functools import cache
from importlib.util import find_spec

IMPORT_SECONDS = 120.0
ASK = "import horovod, horovod.torch.mpi_lib_v2; print(horovod.__version__)"


@cache
def version() -> str | None:
    """Its version, where its library loads beside this PyTorch; None where it does not, or is not installed."""
    if find_spec("horovod") is None:
        return None
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", ASK],
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
            check=True,
        )
    except subprocess.SubprocessError:
        return None
    return done.stdout.strip() or None
