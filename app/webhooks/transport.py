"""One POST to an address that somebody else chose: resolved once, checked, and sent to what was checked."""

import asyncio
import socket
import ssl
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache

import httpx

from app import __version__
from app.webhooks.addresses import Allowed, all_taken

TOTAL_SECONDS = 15.0  # of an attempt, from the resolving to the answer's end
ANSWER_BYTES = 64 * 1024  # read and forgotten, so that the receiver sees its answer taken
PROBLEM_CHARS = 300


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt: the answer's status, and what went wrong, in words for the webhook's owner."""

    status: int | None
    problem: str | None


async def post(
    url: str, body: bytes, headers: dict[str, str], allowed: Allowed, resolver: Executor
) -> Outcome:
    """POST once. Redirects are not followed, and nothing of the answer but its status is kept. Raises nothing."""
    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            return await _post(httpx.URL(url), body, headers, allowed, resolver)
    except TimeoutError:
        return Outcome(None, f"no answer within {TOTAL_SECONDS:g} seconds")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return Outcome(None, f"{type(error).__name__}: {error}"[:PROBLEM_CHARS])


async def _post(
    url: httpx.URL, body: bytes, headers: dict[str, str], allowed: Allowed, resolver: Executor
) -> Outcome:
    host = url.raw_host.decode("ascii").strip("[]")
    port = url.port or {"https": 443, "http": 80}[url.scheme]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(resolver, _resolve, host, port)
    except socket.gaierror:
        return Outcome(None, "the host name cannot be resolved")
    if not all_taken(allowed, host, found):
        return Outcome(None, "the host resolves to an address that webhooks may not reach")
    sent = {
        **headers,
        "Host": url.netloc.decode("ascii"),
        "Content-Type": "application/json",
        "User-Agent": f"Burnish/{__version__}",
    }
    # no environment: a proxy would resolve the name again
    async with httpx.AsyncClient(verify=_tls(), trust_env=False, timeout=TOTAL_SECONDS) as client:
        for number, address in enumerate(found, 1):
            try:
                # the address that was checked, under the name that was asked for: a second resolving could answer otherwise
                async with client.stream(
                    "POST",
                    url.copy_with(host=address),
                    content=body,
                    headers=sent,
                    extensions={"sni_hostname": host},
                ) as answer:
                    await _read_some(answer)
                    return _judge(answer.status_code)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number == len(found):
                    raise
    raise ValueError("the host name has no address")


def _resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, each once, in the system's order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _read_some(answer: httpx.Response) -> None:
    size = 0
    async for chunk in answer.aiter_raw():
        size += len(chunk)
        if size > ANSWER_BYTES:
            return


def _judge(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome(status, None)
    if 300 <= status < 400:
        return Outcome(status, f"the answer was {status}: redirects are not followed")
    return Outcome(status, f"the answer was {status}")


@lru_cache
def _tls() -> ssl.SSLContext:
    """The usual authorities, and the system's, to which `SSL_CERT_FILE` adds."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context
