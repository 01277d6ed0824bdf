"""The service that hostile files are uploaded to, with small limits."""

from collections.abc import Iterator

import psutil
import pytest

from app.client import Client
from app.embedded import Embedded
from tests.hostile.case import MAX_ARCHIVE_BYTES, MAX_ARCHIVE_FILES
from tests.hostile.forks import Forks, forking
from tests.hostile.uploading import MEMORY_BYTES, Uploader

LIMITS = {
    "MAX_ARCHIVE_BYTES": MAX_ARCHIVE_BYTES,
    "MAX_ARCHIVE_FILES": MAX_ARCHIVE_FILES,
    "CHILD_MEMORY_BYTES": MEMORY_BYTES,
    "INSPECT_SECONDS": 120,
    "STEP_SECONDS": 120,
}


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """One process that forks for each file: a file that harmed it would show in every later test."""
    with forking(tmp_path_factory.mktemp("forks")) as forks:
        yield forks


@pytest.fixture(scope="session")
def uploader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploader]:
    """A client of a whole service: API, broker, inspector, worker."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as environment:
        for name, number in LIMITS.items():
            environment.setenv(f"BURNISH_{name}", str(number))
        others = set(psutil.Process().children(recursive=True))  # servers of other tests
        with Embedded(folder / "data") as service, Client(service.url, service.api_key) as client:
            own = [each for each in psutil.Process().children(recursive=True) if each not in others]
            yield Uploader(client, folder, own)
