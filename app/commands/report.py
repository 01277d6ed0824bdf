"""`burnish report`: a job's report on the terminal, as a file, in the browser, or in an experiment tracker."""

import os
import sys
import tempfile
import webbrowser
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markdown import Markdown

from app.client import Client
from app.commands.common import USAGE, Failure, JsonOption, UrlOption, connect, print_json, stderr, stdout
from app.reports.schemas import Report

TRACKING = "MLFLOW_TRACKING_URI"


class Form(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MARKDOWN = "markdown"
    JSON = "json"


class Tracker(StrEnum):
    """Where a report's numbers can go."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"


FILES = {Form.HTML: "report.html", Form.MARKDOWN: "report.md", Form.JSON: "report.json"}
MEDIA = {Form.HTML: "text/html", Form.MARKDOWN: "text/markdown", Form.JSON: "application/json"}
SUFFIXES = {".html": Form.HTML, ".htm": Form.HTML, ".md": Form.MARKDOWN, ".json": Form.JSON}


def report(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")],
    form: Annotated[
        Form | None,
        typer.Option(
            "--format", help="Default: what the name after -o says, markdown without one, html with --open."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write it to this file; with --export, into this folder."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    export: Annotated[
        Tracker | None,
        typer.Option(help="Write its numbers for this tracker. mlflow without -o: to MLFLOW_TRACKING_URI."),
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a job's report: before and after, where the time goes, what was done, how to repeat it."""
    with connect(url) as client:
        if export is not None:
            told = export_report(client, job, export, out)
            print_json(told) if as_json else stdout().print(told["where"], markup=False, soft_wrap=True)
            return
        form = form or _form(out, open_it, as_json)
        if out is None and not open_it:
            _show(_text(client, job, form), form, as_json)
            return
        path = fetch(client, job, form, out or Path(tempfile.mkdtemp(prefix=f"{job}-")))
    if open_it and not webbrowser.open(path.resolve().as_uri()):
        stderr().print("no browser could be started: open the file yourself")
    print_json({"path": str(path)}) if as_json else stdout().print(str(path), markup=False, soft_wrap=True)


def fetch(client: Client, job: str, form: Form, out: Path) -> Path:
    """Download a report, to a file or into a folder.

    Raises:
        Failure: the job has none in this form.
    """
    row = client.show("jobs", job)
    if row["children"]:
        raise Failure(
            f"the job {job} has a report for each target", hint=f"name one of {', '.join(row['children'])}"
        )
    found = [one for one in client.job_artifacts(job) if one["kind"] == "report"]
    if not found:
        raise Failure(f"the job {job} has no report (it is {row['status']})")
    fitting = [one for one in found if one["media_type"].partition(";")[0] == MEDIA[form]]
    if not fitting:
        raise Failure(
            f"the job {job} has no report as {form.value}", hint="jobs of before 0.1 have Markdown alone"
        )
    return client.download(fitting[0]["id"], out / FILES[form] if out.is_dir() else out)


def export_report(client: Client, job: str, tracker: Tracker, out: Path | None) -> dict[str, Any]:
    """Write a report's numbers for a tracker: `where` they are, and MLflow's `run`.

    Raises:
        Failure: nobody says where to, or the tracker's package is missing.
    """
    if out is None and (tracker is Tracker.TENSORBOARD or not os.environ.get(TRACKING)):
        raise Failure(f"--export {tracker.value} needs -o DIR", status=USAGE)
    with tempfile.TemporaryDirectory(prefix="burnish-") as temporary:
        files = {form: fetch(client, job, form, Path(temporary) / FILES[form]) for form in Form}
        found = Report.model_validate_json(files[Form.JSON].read_bytes())
        markdown = files[Form.MARKDOWN].read_text(encoding="utf-8")
        try:
            if tracker is Tracker.MLFLOW:
                from app.reports import mlflow

                run = mlflow.write(found, markdown, files.values(), out)
                return {"where": str(out) if out is not None else os.environ[TRACKING], "run": run}
            from app.reports import tensorboard

            assert out is not None
            return {
                "where": str(out),
                "runs": [str(path) for path in tensorboard.write(found, markdown, out)],
            }
        except ImportError as error:
            raise Failure(
                f"{tracker.value} is not installed: {error}", hint='pip install "burnish[export]"'
            ) from error


def _form(out: Path | None, open_it: bool, as_json: bool) -> Form:
    if out is not None:
        return SUFFIXES.get(out.suffix.lower(), Form.HTML)
    return Form.HTML if open_it else Form.JSON if as_json else Form.MARKDOWN


def _text(client: Client, job: str, form: Form) -> str:
    with tempfile.TemporaryDirectory(prefix="burnish-") as temporary:
        return fetch(client, job, form, Path(temporary) / FILES[form]).read_text(encoding="utf-8")


def _show(text: str, form: Form, as_json: bool) -> None:
    if as_json and form is not Form.JSON:
        print_json({form.value: text})
    elif form is Form.MARKDOWN and sys.stdout.isatty():
        stdout().print(Markdown(text))
    else:
        sys.stdout.write(text)
