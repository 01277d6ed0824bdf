"""The API with its sender, and a receiver that it may reach."""

from collections.abc import Iterator

import pytest

from tests.app.api.conftest import api, api_sqlite, server
from tests.app.webhooks.receiver import Receiver, receiving

__all__ = ["api", "api_sqlite", "server"]


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything reads the settings."""
    monkeypatch.setenv("BURNISH_WEBHOOK_HTTP", "true")
    monkeypatch.setenv("BURNISH_WEBHOOK_ALLOWED", "127.0.0.1")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running
