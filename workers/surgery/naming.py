"""Layers of a lifted network by name, and those that a pass is to leave alone."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from torch import fx, nn

from app.errors import InvalidParams

_NAMED = 20


def called(network: fx.GraphModule, kinds: tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    """The layers of these kinds that the graph calls, in its order."""
    held = dict(network.named_modules())
    names = dict.fromkeys(str(node.target) for node in network.graph.nodes if node.op == "call_module")
    return {name: held[name] for name in names if isinstance(held[name], kinds)}


def is_ignored(name: str, ignore: Sequence[str]) -> bool:
    """Whether one of the names or patterns is this layer's."""
    return any(fnmatchcase(name, pattern) for pattern in ignore)


def check_ignored(ignore: Sequence[str], names: Collection[str], kinds: str, stage: str) -> None:
    """Raises InvalidParams where a name or pattern is none of these layers'; `kinds` says in words what they are."""
    for pattern in ignore:
        if not any(is_ignored(name, [pattern]) for name in names):
            raise InvalidParams(
                f"no {kinds} is called {pattern!r}",
                stage=stage,
                param="ignore",
                hint=f"there are {', '.join(list(names)[:_NAMED]) or 'none'}",
            )


def some(names: Sequence[str], most: int = 5) -> str:
    """A few names in words."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
