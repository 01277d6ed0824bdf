"""The API of the folder beside, served."""

from tests.app.api.conftest import server

__all__ = ["server"]
