"""`burnish rebuild`: an engine built anew, for another target or another machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.client import Client
from app.commands import bundles
from app.commands.common import (
    DONE,
    FAILED,
    USAGE,
    Failure,
    ForceOption,
    JsonOption,
    UrlOption,
    connect,
    leave,
    print_json,
    stderr,
)
from app.commands.optimize import engine_of, fetch_engines, show_outcome, watch
from app.commands.parsing import parse_targets


def rebuild(
    engine: Annotated[
        str,
        typer.Argument(metavar="ENGINE", help="An artifact, the job that made it, or its unpacked bundle."),
    ],
    target: Annotated[
        str | None,
        typer.Option("--target", help="Where the new engine runs: RUNTIME[:k=v,…]. Default: as before."),
    ] = None,
    package: Annotated[
        list[str],
        typer.Option("--package", metavar="FORM", help="Pack it as triton, docker or mlflow too; repeat."),
    ] = [],  # noqa: B006 - typer reads the default
    allow_unmeasured: Annotated[
        bool, typer.Option("--allow-unmeasured", help="Take an engine that cannot run where it is built.")
    ] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where to unpack the engine.")] = None,
    force: ForceOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build an engine anew from the optimized model that the service stored: no pass is done again.

    Exit status: 0 done, 1 the job failed, 2 wrong usage, 3 the service cannot be reached.
    """
    body: dict[str, Any] = {"options": {"package": package, "allow_unmeasured": allow_unmeasured}}
    if target is not None:
        body["target"] = one_target(target)
    if out is not None:
        bundles.check_destination(out, force)
    with connect(url) as client:
        job = watch(client, client.rebuild(artifact_of(client, engine), body)["id"], stderr())
        if not as_json:
            show_outcome(job)
        if out is not None:
            fetch_engines(client, [job], out, stderr())
    if as_json:
        print_json(job)
    leave(DONE if job["status"] == "succeeded" else FAILED)


def one_target(text: str) -> dict[str, Any]:
    """The target that an option names.

    Raises:
        Failure: it names none, or several.
    """
    targets = parse_targets([text])
    if len(targets) != 1:
        raise Failure(
            f"--target {text}: name one runtime", hint="run the command once for each", status=USAGE
        )
    return targets[0]


def artifact_of(client: Client, given: str) -> str:
    """The artifact that an argument means: itself, a job's engine, or the engine of the job in a bundle's manifest.

    Raises:
        Failure: there is none.
    """
    if Path(given).is_dir():
        job = bundles.read_manifest(Path(given)).get("job")
        if not isinstance(job, str):
            raise Failure(f"the manifest of {given} names no job", status=USAGE)
        return _engine(client, job)
    return _engine(client, given) if given.startswith("job_") else given


def _engine(client: Client, job_id: str) -> str:
    job = client.show("jobs", job_id)
    if (engine := engine_of(job)) is not None:
        return engine
    if job["children"]:
        hint = f"name one of its jobs: {', '.join(job['children'])}"
        raise Failure(f"the job {job_id} has one for each target", hint=hint, status=USAGE)
    raise Failure(f"the job {job_id} is {job['status']} and made no engine", status=USAGE)
