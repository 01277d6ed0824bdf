"""How the threads of OpenMP wait for one another, by which PyTorch computes on processors.

By default they ask again and again for a while before they sleep
(https://gcc.gnu.org/onlinedocs/libgomp/OMP_005fWAIT_005fPOLICY.html). Where other processes want the processors too, that
keeps those from running that are waited for: on two processors with work for six, a step of training took ten times as long.
So a job's own threads wait asleep. What is measured waits as it does where users run it.
"""

import os

NAME, ASLEEP = "OMP_WAIT_POLICY", "passive"

_ours = False


def wait_asleep() -> None:
    """Let this process's threads sleep while they wait, unless its environment says something else.

    To be called before PyTorch is imported: the library reads the environment once.
    """
    global _ours
    if NAME not in os.environ:
        os.environ[NAME] = ASLEEP
        _ours = True


def environment_as_given() -> dict[str, str]:
    """This process's environment for what it measures, without what `wait_asleep` put in."""
    return {name: value for name, value in os.environ.items() if not (_ours and name == NAME)}
