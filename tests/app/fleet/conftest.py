"""The API of the neighbouring folder."""

from tests.app.api.conftest import api

__all__ = ["api"]
