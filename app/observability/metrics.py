"""What Prometheus reads: the requests of this process, and what `installation.py` finds in the database."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from app.db import transaction
from app.observability import installation

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_registry = CollectorRegistry()
_requests = Counter(
    "burnish_http_requests", "Requests answered.", ["route", "method", "status"], registry=_registry
)
_seconds = Histogram(
    "burnish_http_request_seconds",
    "Seconds from a request's head to its answer's end.",
    ["route", "method"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    registry=_registry,
)


def count_request(route: str, method: str, status: int, seconds: float) -> None:
    """Count one answered request. `route` is a template, so that the number of series is bounded."""
    method = method if method in METHODS else "other"
    _requests.labels(route, method, str(status)).inc()
    _seconds.labels(route, method).observe(seconds)


def exposition() -> bytes:
    """Every metric in Prometheus' text format.

    Raises:
        kombu.exceptions.OperationalError: the broker does not answer.
        sqlalchemy.exc.OperationalError: the database does not answer.
    """
    registry = CollectorRegistry()
    with transaction(readonly=True) as session:
        registry.register(_Fixed(installation.families(session)))
    return generate_latest(_registry) + generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, metrics: Iterable[Metric]):
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics
