"""The API of the neighbouring folder."""

from tests.app.api.conftest import api, server

__all__ = ["api", "server"]
