"""The addresses by which the processes of several nodes know one another: on the loopback of each node's network namespace.

A node's own processes listen at its address and within its ports; at those of the others, a relay listens for them.
"""

STORE_PORT = 29_400  # of the first node: where torchrun's agents meet
_FIRST_PORT, _PORTS = 30_000, 128


def address(node: int) -> str:
    """The address of a node, counted from 0. All of 127.0.0.0/8 is the loopback's."""
    return f"127.0.{node}.1" if node else "127.0.0.1"


def ephemeral(node: int) -> range:
    """The ports that the system picks from where a process of the node asks for any."""
    first = _FIRST_PORT + node * _PORTS
    return range(first, first + _PORTS)


def ports(node: int) -> list[int]:
    """Where others may want to reach a node."""
    return [*([] if node else [STORE_PORT]), *ephemeral(node)]
