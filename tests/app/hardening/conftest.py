"""The API of the neighbouring folder."""

from tests.app.api.conftest import api_sqlite, server

__all__ = ["api_sqlite", "server"]
