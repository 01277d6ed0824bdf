"""One embedded service for all end-to-end tests of a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.client import Client
from app.embedded import Embedded
from tests.e2e.service import Service


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """`burnish up`, with one worker."""
    with Embedded(tmp_path_factory.mktemp("embedded") / "data") as running:
        yield running


@pytest.fixture
def service(embedded: Embedded, tmp_path: Path) -> Iterator[Service]:
    """A client of it."""
    with Client(embedded.url, embedded.api_key) as client:
        yield Service(client, tmp_path)
