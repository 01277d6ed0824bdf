"""PostgreSQL over a network that may be cut: neither side waits for the other for ever.

A cut that drops packets is found by keepalives and unacknowledged data; a peer that takes everything and says nothing,
by the bound on each answer. The server lets go of a client that it lost, and of the rows that this one had locked.
"""

import time
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

CONNECT_SECONDS = 5
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_COUNT = 10, 5, 3
UNACKNOWLEDGED_MILLISECONDS = 20_000
IDLE_ANSWERS = 2  # no transaction waits for its own process as long as for so many answers: that one is gone


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server lets it wait for an answer for too long."""

    answer_seconds: float = 0.0

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait as psycopg does, but not for longer than `answer_seconds`.

        Raises:
            psycopg.OperationalError: no answer in time.
        """
        bound = timeout or self.answer_seconds
        began = time.monotonic()
        try:
            return super().wait(gen, interval, bound)
        except psycopg.OperationalError as error:
            unanswered = self.pgconn.transaction_status == TransactionStatus.ACTIVE
            if unanswered and timeout is None and time.monotonic() - began >= bound:
                self.pgconn.finish()  # an answer that still comes would be taken for the next one's
                raise psycopg.OperationalError(f"the database did not answer within {bound:g} s") from error
            raise


def limits(answer_seconds: float) -> dict[str, int]:
    """What the server is told of how long it may take, in milliseconds."""
    return {
        "statement_timeout": round(answer_seconds * 1000),
        "idle_in_transaction_session_timeout": round(IDLE_ANSWERS * answer_seconds * 1000),
    }


def connect(answer_seconds: float, *args: Any, pooler: bool = False, **parameters: Any) -> BoundedConnection:
    """Connect as `psycopg.connect` does, with the bounds of this module; parameters that are given win.

    A `pooler` takes no settings of the server's: each transaction has to set them.

    Raises:
        psycopg.OperationalError: it cannot be connected to.
    """
    settings = {
        **limits(answer_seconds),
        "tcp_keepalives_idle": KEEPALIVE_IDLE_SECONDS,
        "tcp_keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
        "tcp_keepalives_count": KEEPALIVE_COUNT,
    }
    if not pooler:
        own = [f"-c {name}={value}" for name, value in settings.items()]
        parameters["options"] = " ".join([*own, parameters.get("options", "")])
    bounds: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": KEEPALIVE_IDLE_SECONDS,
        "keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
        "keepalives_count": KEEPALIVE_COUNT,
        "tcp_user_timeout": UNACKNOWLEDGED_MILLISECONDS,
    }
    connection = BoundedConnection.connect(*args, **{**bounds, **parameters})
    connection.answer_seconds = answer_seconds
    return connection
