"""The API of the neighbouring folder, over rows that these tests write themselves."""

from tests.app.api.conftest import api, server

__all__ = ["api", "server"]
