"""`python -m app.tethered PARENT COMMAND…` becomes COMMAND, which the kernel kills when its parent dies.

The signal is asked for here and not between fork and exec, where no Python code may safely run beside threads; it
outlives the exec (prctl(2), PR_SET_PDEATHSIG). Off Linux there is no such signal: a killed parent leaves orphans.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tether this process, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
