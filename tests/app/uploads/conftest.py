"""Uploads through the API: its fixtures."""

from tests.app.api.conftest import api, api_sqlite, server

__all__ = ["api", "api_sqlite", "server"]
