"""`burnish up`, and its parts for production: `serve`, `worker`, `migrate`. They import late: clients start fast."""

import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from app.commands.common import Failure, JsonOption, own_database, print_json, stderr, stdout

HostOption = Annotated[
    str, typer.Option(help="The address to listen on; others than 127.0.0.1 open it to a network.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: a free one.")]


def up(
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    data: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Where everything is kept. Default: BURNISH_DATA_DIR or .burnish"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Jobs at a time.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Run the whole service on this machine until Ctrl-C: broker, API and worker, with nothing to configure."""
    from app.config import get_settings
    from app.connection import Connection, write_connection
    from app.embedded import Embedded, EmbeddedError

    console = stderr()
    folder = data or get_settings().data_dir
    service = Embedded(
        folder, host=host, port=port, workers=workers, say=lambda text: console.print(text, markup=False)
    )

    def ask_to_stop(signum: int, frame: FrameType | None) -> None:
        service.ask_to_stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup asks for just that
            signal.signal(number, ask_to_stop)
    try:
        if not as_json:
            console.print("starting …")
        service.start()
        if not service.stopping:
            known = write_connection(Connection(service.url, service.api_key))
            if as_json:
                print_json({"url": service.url, "data": str(folder.resolve()), "connection": str(known)})
                sys.stdout.flush()
            else:
                out = stdout()
                out.print(f"Burnish serves at [bold]{service.url}[/]", soft_wrap=True)
                out.print(f"  data and logs  {folder.resolve()}", soft_wrap=True)
                out.print(f"  key            {known} (for the commands of this user)", soft_wrap=True)
                out.print("  try            burnish optimize model.onnx -o out/", soft_wrap=True)
                out.print(
                    "Ctrl-C stops it. Started again on the same data, it goes on with what is left to do."
                )
        service.wait()
    except EmbeddedError as error:
        raise Failure(str(error)) from error
    finally:
        service.stop()
    console.print("stopped")


def serve(
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    descriptor: Annotated[
        int | None, typer.Option("--fd", hidden=True, help="A listening socket to inherit.")
    ] = None,
) -> None:
    """Serve the HTTP API; settings are BURNISH_* variables. Migrate first."""
    from app.serve import serve as run

    run(host, port, descriptor)


def worker(
    queues: Annotated[
        str | None,
        typer.Option(
            help="Queues with commas: inspect, runtime.NAME, runtime.NAME.sm89. Default: all that this machine can."
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Jobs at a time.")] = 1,
) -> None:
    """Run a worker; it needs the packages of the `worker` extra."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise Failure("the worker's packages are missing", hint="pip install 'burnish[worker]'")
    command = [sys.executable, "-P", "-m", "workers", "worker", "--concurrency", str(concurrency)]
    if queues:
        command += ["--queues", queues]
    sys.stdout.flush()
    os.execv(command[0], command)


def migrate() -> None:
    """Bring the database to this version's tables, once, before API and workers start."""
    from app.migrate import upgrade

    with own_database():
        upgrade()
