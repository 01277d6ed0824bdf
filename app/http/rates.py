"""Rate limits, counted in the Redis that is there, so that all API processes count together.

A sliding window (`limits`): in no minute does a key get many more requests than its limit, and only counters are kept. Redis is
no part of the truth: where it does not answer, requests pass, and for a while it is not asked again, so that nobody waits for it.
The header fields are those of draft-ietf-httpapi-ratelimit-headers-10.
"""

import math
import time
from functools import lru_cache

import redis
import structlog
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.config import get_settings
from app.errors import RateLimited

WINDOW_SECONDS = 60
ANSWER_SECONDS = 0.25  # how long Redis may take
AWAY_SECONDS = 5.0  # how long it is left alone after it did not answer
LOG_SECONDS = 60.0
MOST_BLOCKED = 10_000  # addresses remembered

log = structlog.get_logger(__name__)


class Rates:
    """The counters of this process's Redis, and the addresses that this process answers no more for now."""

    def __init__(self, redis_url: str) -> None:
        url = _client_url(redis_url)
        pool = redis.ConnectionPool.from_url(
            url,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._pool = pool
        self._limiter = SlidingWindowCounterRateLimiter(
            RedisStorage(url, connection_pool=pool, key_prefix="burnish:rate")
        )
        self._away_until = 0.0
        self._logged = -math.inf
        self._blocked: dict[str, float] = {}

    def close(self) -> None:
        """Close the connections; a count after this opens new ones."""
        self._pool.disconnect()

    def admit_key(self, key_id: str, per_minute: int) -> dict[str, str]:
        """Count a request of a key: the header fields that its answer carries.

        Raises:
            RateLimited: it is one too many.
        """
        found = self._count("key", key_id, per_minute)
        if found is None:
            return {}
        admitted, left, reset_seconds = found
        fields = {
            "RateLimit-Policy": f'"key";q={per_minute};w={WINDOW_SECONDS}',
            "RateLimit": f'"key";r={left};t={reset_seconds}',
        }
        if admitted:
            return fields
        raise RateLimited(
            f"the key has used up its {per_minute} requests a minute",
            hint=f"try again in {reset_seconds} seconds; long polls (`?wait=`) and event streams need fewer requests",
            headers={**fields, "Retry-After": str(reset_seconds)},
        )

    def refuse_blocked(self, address: str) -> None:
        """Let no request pass whose address has tried too many wrong keys: a right guess must look like a wrong one.

        Raises:
            RateLimited: it has.
        """
        until = self._blocked.get(address)
        if until is None:
            return
        left = until - time.monotonic()
        if left > 0:
            raise _address_limited(math.ceil(left))
        self._blocked.pop(address, None)

    def count_wrong_key(self, address: str, per_minute: int) -> None:
        """Count a request without a valid key.

        Raises:
            RateLimited: it is one too many of its address.
        """
        found = self._count("address", address, per_minute)
        if found is None or found[0]:
            return
        if len(self._blocked) >= MOST_BLOCKED:
            self._blocked.clear()  # they are blocked again with their next wrong key
        self._blocked[address] = time.monotonic() + found[2]
        raise _address_limited(found[2])

    def _count(self, kind: str, whose: str, per_minute: int) -> tuple[bool, int, int] | None:
        """Whether one more may pass, how many are left, and the seconds until there are more; None: Redis is away."""
        now = time.monotonic()
        if now < self._away_until:
            return None
        limit = RateLimitItemPerMinute(per_minute)
        try:
            admitted = self._limiter.hit(limit, kind, whose)
            reset, left = self._limiter.get_window_stats(limit, kind, whose)
        except redis.RedisError as error:
            self._away_until = now + AWAY_SECONDS
            if now - self._logged >= LOG_SECONDS:
                self._logged = now
                log.warning("rate_limits_away", error=str(error) or type(error).__name__)
            return None
        return admitted, left, max(1, math.ceil(reset - time.time()))


@lru_cache
def get_rates() -> Rates:
    """The rate limits of this process."""
    return Rates(get_settings().redis_url)


def _client_url(broker_url: str) -> str:
    """The client's spelling of a Unix socket: Celery's is `redis+socket:///path?virtual_host=0`."""
    if not broker_url.startswith("redis+socket://"):
        return broker_url
    return broker_url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=")


def _address_limited(seconds: int) -> RateLimited:
    return RateLimited(
        "this address has sent too many requests without a valid key",
        hint=f"try again in {seconds} seconds",
        headers={"Retry-After": str(seconds)},
    )
