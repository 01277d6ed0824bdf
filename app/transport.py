"""Requests as clients send them: tried again where that helps, under one key each, and patient with services that restart."""

import ipaddress
import random
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

from app import __version__
from app.answers import ApiProblem, Json, object_of, problem_of

Answer = TypeVar("Answer")

ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0
TRANSIENT = frozenset({429, 502, 503, 504})  # RFC 9110 and RFC 6585: the same request may succeed later


class Unreachable(Exception):
    """The service cannot be reached, or went away and did not come back."""


class Transport:
    """A connection to one service, with one key; it belongs to one thread.

    Network errors and answers that say "later" are tried again with growing pauses, or when `Retry-After` says; a key that
    has used up its requests waits for as long as `patience_seconds`. Every POST carries an
    `Idempotency-Key`, so that trying again never does a thing twice.
    """

    def __init__(self, url: str, api_key: str, patience_seconds: float, timeout_seconds: float):
        """`patience_seconds`: how long `patiently` bears a service that does not answer."""
        self.url = url.rstrip("/")
        self.patience_seconds = patience_seconds
        self.timeout_seconds = timeout_seconds
        self.http = httpx.Client(
            base_url=f"{self.url}/v1/",
            headers={"Authorization": f"Bearer {api_key}", "User-Agent": f"burnish/{__version__}"},
            timeout=httpx.Timeout(timeout_seconds, connect=10.0),
            trust_env=not is_loopback(self.url),  # a proxy cannot reach this machine's own addresses
        )

    def json(self, method: str, path: str, **more: Any) -> Json:
        """The object of an answer."""
        return object_of(self.send(method, path, **more))

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """A whole answer.

        Raises:
            ApiProblem: the service answered with an error.
            Unreachable: it did not answer.
        """
        headers = {"Idempotency-Key": new_key()} if method == "POST" else {}
        return self.retried(lambda: self.http.request(method, path, headers=headers, **more))

    def open(self, path: str, headers: Mapping[str, str]) -> httpx.Response:
        """An answer whose body is still to be read; the caller closes it."""

        def send() -> httpx.Response:
            return self.http.send(self.http.build_request("GET", path, headers=dict(headers)), stream=True)

        return self.retried(send)

    def retried(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """What `send` gives, once it is no error; see `send` for what is raised. `send` can be called again."""
        attempt, deadline = 0, time.monotonic() + self.patience_seconds
        while True:
            attempt += 1
            last = attempt == ATTEMPTS
            try:
                response = send()
            except httpx.TransportError as error:
                if last:
                    raise Unreachable(
                        f"{self.url} does not answer: {error or type(error).__name__}"
                    ) from error
                pause(attempt - 1, None)
                continue
            except httpx.InvalidURL as error:
                raise Unreachable(f"{self.url} is no address: {error}") from error
            if response.status_code < 400:
                return response
            response.read()
            response.close()
            problem = ApiProblem(problem_of(response), refused=response.status_code < 500)
            if problem.code == "rate_limited" and time.monotonic() < deadline:
                attempt -= 1  # the service is well, and says when to come again
            elif last or not passes(problem):
                raise problem
            pause(attempt, response.headers.get("Retry-After"))

    def patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Ask until there is an answer, for as long as our patience lasts: services restart."""
        deadline = time.monotonic() + self.patience_seconds
        attempt = 0
        while True:
            try:
                return ask()
            except (Unreachable, ApiProblem) as error:
                passing = isinstance(error, Unreachable) or passes(error)
                if not passing or time.monotonic() > deadline:
                    raise
            pause(attempt, None)
            attempt += 1


def passes(problem: ApiProblem) -> bool:
    """Whether the same request may succeed soon. A quota is not given back by waiting a little."""
    return problem.status in TRANSIENT and problem.code != "quota_exceeded"


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        host = httpx.URL(url).host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except (httpx.InvalidURL, ValueError):
        return False


def new_key() -> str:
    """A fresh `Idempotency-Key`."""
    return str(uuid.uuid4())


def pause(attempt: int, retry_after: str | None) -> None:
    """Exponential backoff with jitter, or what `Retry-After` asks for, bounded."""
    seconds = min(FIRST_PAUSE_SECONDS * 2.0 ** min(attempt, 10), LONGEST_PAUSE_SECONDS)
    seconds *= random.uniform(0.75, 1.25)
    if retry_after is not None and retry_after.isdecimal():
        seconds = min(float(retry_after), 60.0)
    time.sleep(seconds)
