"""How trainings are tried."""

from collections.abc import Iterator

import pytest
import torch

from workers.training import launch


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads of small layers wait for one another, the longer the busier the machine is."""
    monkeypatch.setattr(launch, "usable_processors", lambda: 1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
