"""`burnish profile`: where the time of a model or an engine goes, why, and what would help."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.client import Client
from app.commands.common import (
    DONE,
    FAILED,
    USAGE,
    Failure,
    JsonOption,
    UrlOption,
    connect,
    leave,
    print_json,
    print_problem,
    stderr,
    stdout,
)
from app.commands.optimize import Uploads, recipe_of, watch
from app.commands.parsing import parse_pass, parse_targets
from app.commands.profile_tables import print_profile
from app.commands.tables import named_by_target

Json = dict[str, Any]

SubjectArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL_OR_ENGINE", help="A file, or the id of a model, or of an engine's artifact."
    ),
]
TargetsOption = Annotated[
    list[str],
    typer.Option(
        "--target",
        help="Where it runs: RUNTIME[:k=v,…], several with commas or repeated. An engine knows its own.",
    ),
]
PassesOption = Annotated[
    list[str],
    typer.Option("--pass", metavar="NAME[:k=v,…]", help="A pass to be done first, in order; repeat."),
]
DataOption = Annotated[
    str | None, typer.Option(metavar="FILE|ID", help="Data to run it on. None: seeded random inputs.")
]
OutOption = Annotated[
    Path | None, typer.Option("-o", "--out", help="A folder for the report, the data and the traces.")
]


def profile(
    subject: SubjectArgument,
    target: TargetsOption = [],  # noqa: B006 - typer reads the default
    passes: PassesOption = [],  # noqa: B006
    data: DataOption = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="FILE|ID", help="Calibration data, for passes that calibrate.")
    ] = None,
    train: Annotated[
        str | None, typer.Option(metavar="FILE|ID", help="Training data, for passes that train.")
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Profile the steps of the last --pass, which trains.")
    ] = False,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples of one inference.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to run with the profiler on.")] = 5.0,
    trace: Annotated[
        list[str],
        typer.Option(metavar="FORM", help="Keep a trace: chrome, flamegraph or tensorboard; repeat."),
    ] = ["chrome"],  # noqa: B006
    out: OutOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find out where the time goes, layer by layer, why, and what would help.

    Exit status: 0 done, 1 the job failed, 2 wrong usage, 3 the service cannot be reached.
    """
    with connect(url) as client:
        body = looking_body(
            client, "profile", subject, target, passes, data, {"calibration": dataset, "train": train}
        )
        body["profile"] = {
            "of": "training" if training else "inference",
            "batch": batch,
            "seconds": seconds,
            "traces": trace,
        }
        jobs, job = finished(client, body)
        if not as_json:
            for each in jobs:
                if each["result"]:
                    print_profile(stdout(), each)
                if each["problem"]:
                    print_problem(each["problem"])
        if out is not None:
            fetch_all(client, jobs, out)
    if as_json:
        print_json(job if not job["children"] else {**job, "children": jobs})
    leave(DONE if job["status"] == "succeeded" else FAILED)


def looking_body(
    client: Client,
    kind: str,
    subject: str,
    target: list[str],
    passes: list[str],
    data: str | None,
    given: dict[str, str | None],
) -> Json:
    """The body of a job that looks at an engine; files are uploaded.

    Raises:
        Failure: the options do not fit each other.
    """
    uploads = Uploads(client, stderr())
    id_ = uploads.model(subject, [], None)
    if not target and id_.startswith("mdl_"):
        target = ["onnxruntime-cpu"]
    body: Json = {"kind": kind, "subject": id_, "targets": parse_targets(target)}
    roles = {role: uploads.dataset(one)["id"] for role, one in given.items() if one is not None}
    if passes:
        body |= recipe_of(client, {"schema": 1, "passes": [parse_pass(text) for text in passes]}, roles)
    elif roles:
        raise Failure(
            f"no --pass reads {' or '.join(roles)} data", hint="use --data to run on it", status=USAGE
        )
    if data is not None:
        body["data"] = uploads.dataset(data)["id"]
    return body


def finished(client: Client, body: Json) -> tuple[list[Json], Json]:
    """Submit a job and watch it to its end: its children, or itself, and itself."""
    job = watch(client, client.submit(body)["id"], stderr())
    return [client.show("jobs", child) for child in job["children"]] or [job], job


def fetch_all(client: Client, jobs: list[Json], out: Path) -> None:
    """Download everything that jobs made; a folder each where there are several."""
    for name, job in named_by_target(jobs):
        folder = out / name if len(jobs) > 1 else out
        folder.mkdir(parents=True, exist_ok=True)
        for artifact in client.job_artifacts(job["id"]):
            path = client.download(artifact["id"], folder / artifact["filename"])
            stdout().print(str(path), markup=False, soft_wrap=True)
