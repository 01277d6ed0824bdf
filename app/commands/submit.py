"""`burnish jobs submit`: any job from its body, or one that follows a profile's advice."""

import json
import sys
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
    stderr,
    stdout,
)
from app.commands.optimize import Uploads, default_metric, fetch_engines, recipe_of, show_outcome, watch

Json = dict[str, Any]


def submit(
    body: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A job's body as JSON, or a report.json; - is standard input."),
    ] = None,
    advice: Annotated[
        str | None,
        typer.Option(metavar="JOB:NUMBER", help="Follow this advice of a `profile` job, in place of FILE."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="FILE|ID", help="Calibration data, for advice that calibrates.")
    ] = None,
    train: Annotated[
        str | None, typer.Option(metavar="FILE|ID", help="Training data, for advice that trains.")
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(metavar="FILE|ID", help="Data to measure on, and accuracy if it is labelled."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="What accuracy means. Default: top1 for classes.")
    ] = None,
    max_drop: Annotated[float | None, typer.Option(min=0, help="How much accuracy may be lost.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where to unpack the engine.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Queue the job and do not wait for it.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue a job, and watch it to its end. Exit status 1: it did not succeed."""
    if (body is None) == (advice is None):
        raise Failure("give either a job's body or --advice", status=USAGE)
    if max_drop is not None and evaluate is None:
        raise Failure("--max-drop needs --evaluate: data to measure accuracy on", status=USAGE)
    with connect(url) as client:
        asked = advised(client, advice) if advice is not None else read_body(body)
        uploads = Uploads(client, stderr())
        given = {"calibration": dataset, "train": train}
        roles = {role: uploads.dataset(one)["id"] for role, one in given.items() if one is not None}
        if roles:
            asked |= recipe_of(client, asked.get("recipe"), roles)
        if evaluate is not None:
            data = uploads.dataset(evaluate)
            asked["evaluation"] = {"dataset": data["id"], "metric": metric or default_metric(data)}
        if max_drop is not None:
            asked["budget"] = {"max_drop": max_drop}
        job = client.submit(asked)
        if not detach:
            job = watch(client, job["id"], stderr())
        if not as_json:
            stdout().print(f"{job['id']} {job['status']}", markup=False)
            show_outcome(job)
        if out is not None and not detach:
            fetch_engines(
                client, [client.show("jobs", one) for one in job["children"]] or [job], out, stderr()
            )
    if as_json:
        print_json(job)
    leave(DONE if detach or job["status"] == "succeeded" else FAILED)


def advised(client: Client, text: str) -> Json:
    """The body of the job that follows `JOB:NUMBER`.

    Raises:
        Failure: there is no such advice, or no job can follow it.
    """
    id_, _, number = text.rpartition(":")
    if not id_ or not number.isdigit():
        raise Failure(f"--advice {text} is not JOB:NUMBER", status=USAGE)
    found = ((client.show("jobs", id_)["result"] or {}).get("profile") or {}).get("advice")
    if found is None:
        raise Failure(f"the job {id_} is no finished profile", hint="burnish profile MODEL", status=USAGE)
    piece = next((one for one in found if one["number"] == int(number)), None)
    if piece is None:
        raise Failure(
            f"the job {id_} gave {len(found)} pieces of advice, none numbered {number}", status=USAGE
        )
    if piece["request"] is None:
        raise Failure(f"no job follows this advice: {piece['why']}", status=USAGE)
    return {**piece["request"], "advice": {"job": id_, "number": int(number)}}


def read_body(path: Path | None) -> Json:
    """A job's body from a file, or from standard input; of a report (`report.json`) the body that repeats its job.

    Raises:
        Failure: it is not a JSON object.
    """
    assert path is not None
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read as JSON: {error}", status=USAGE) from error
    if not isinstance(found, dict):
        raise Failure(f"{path} holds no JSON object", status=USAGE)
    request = found.get("request")
    return request if isinstance(request, dict) else found
