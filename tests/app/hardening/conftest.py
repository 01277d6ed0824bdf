"""The API of the neighbouring folder, and a served one on SQLite alone, where the database is not what is tested."""

from collections.abc import Iterator

import pytest

from app.config import Settings
from tests.app.api.conftest import api_sqlite, served, server
from tests.app.api.support import Server

__all__ = ["api_sqlite", "server"]


@pytest.fixture
def server_sqlite(burnish_sqlite: Settings) -> Iterator[Server]:
    with served() as server:
        yield server
