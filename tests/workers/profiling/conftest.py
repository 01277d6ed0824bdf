"""Networks, exported once a session."""

import pytest

from tests.workers.profiling import subjects
from tests.workers.profiling.subjects import Subject


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A convolutional network."""
    return subjects.resnet(tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A transformer."""
    return subjects.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A recurrent network with control flow."""
    return subjects.recurrent(tmp_path_factory.mktemp("recurrent"))
