"""Networks exported once a session."""

from collections.abc import Callable

import pytest

from tests.workers.tensorrt.networks import Exported, exported


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Exported]:
    """`network(kind, shapes)`."""
    known: dict[tuple[str, str], Exported] = {}

    def get(kind: str, shapes: str = "dynamic") -> Exported:
        if (kind, shapes) not in known:
            known[kind, shapes] = exported(kind, shapes, tmp_path_factory.mktemp(f"{kind}-{shapes}"))
        return known[kind, shapes]

    return get
