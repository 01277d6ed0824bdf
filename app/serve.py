"""The API process: uvicorn, with our logging."""

import resource
import socket

import uvicorn
from starlette.types import ASGIApp

from app.config import get_settings
from app.db import bound_waits
from app.events import notifier
from app.http.protocol import GuardedProtocol
from app.logs import configure_logging
from app.main import create_app

KEEP_ALIVE_SECONDS = 65  # longer than the usual proxy's, so that the proxy closes first
GRACE_SECONDS = 10  # what open requests get when the process is told to stop
OWN_DESCRIPTORS = 200  # of database, broker, store, threads


class Server(uvicorn.Server):
    """Lets long polls and event streams end at once when told to stop; uvicorn alone would wait for them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking requests, let the open ones end, then end the application."""
        await notifier.stop()
        await super().shutdown(sockets)


def make_server(host: str, port: int) -> Server:
    """A server that is not started yet; `run()` serves until it is told to stop."""
    return Server(uvicorn_config(create_app(), host, port))


def uvicorn_config(app: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """How an application is served."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # app.http.context writes the access line
        server_header=False,
        http=GuardedProtocol,
        ws="none",
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=_most_connections(),
    )


def raise_descriptor_limit() -> int:
    """Let this process open as many files and sockets as the machine allows it; how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def _most_connections() -> int:
    """As many as are configured, if each may open a file besides."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(get_settings().max_connections, max(1, (descriptors - OWN_DESCRIPTORS) // 2))


def serve(host: str, port: int, descriptor: int | None = None) -> None:
    """Serve HTTP until SIGINT or SIGTERM; exits with an error where the port is taken or the database unreachable.

    `descriptor`: a listening socket that the parent process opened, in place of host and port.
    """
    configure_logging()
    raise_descriptor_limit()
    bound_waits()
    sockets = [socket.socket(fileno=descriptor)] if descriptor is not None else None
    make_server(host, port).run(sockets)
