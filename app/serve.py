"""The API process: uvicorn, with our logging."""

import socket

import uvicorn
from starlette.types import ASGIApp

from app.db import bound_waits
from app.events import notifier
from app.logs import configure_logging
from app.main import create_app

KEEP_ALIVE_SECONDS = 65  # longer than the usual proxy's, so that the proxy closes first
GRACE_SECONDS = 10  # what open requests get when the process is told to stop


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
        ws="none",
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def serve(host: str, port: int, descriptor: int | None = None) -> None:
    """Serve HTTP until SIGINT or SIGTERM; exits with an error where the port is taken or the database unreachable.

    `descriptor`: a listening socket that the parent process opened, in place of host and port.
    """
    configure_logging()
    bound_waits()
    sockets = [socket.socket(fileno=descriptor)] if descriptor is not None else None
    make_server(host, port).run(sockets)
