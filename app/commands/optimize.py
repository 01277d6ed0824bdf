"""`burnish optimize`: upload, submit, watch, table, download."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from app.client import Client
from app.commands import bundles
from app.commands.common import (
    DONE,
    FAILED,
    INTERRUPTED,
    USAGE,
    Failure,
    ForceOption,
    JsonOption,
    UrlOption,
    connect,
    leave,
    print_json,
    print_problem,
    stderr,
    stdout,
)
from app.commands.parsing import bind_data, parse_pass, parse_targets, read_recipe
from app.commands.plan import print_plan
from app.commands.profile_tables import print_profile
from app.commands.progress import busy, bytes_bar, job_bar
from app.commands.tables import named_by_target, print_result, targets_table

Json = dict[str, Any]
OPTIONS = {  # that give something in this role
    "calibration": "--dataset",
    "train": "--train",
    "validation": "--validation",
    "teacher": "--teacher",
}
PRESET_ROLES = ("calibration",)
EXAMPLES = {
    "train": "finetune:epochs=5",
    "validation": "quantize-openvino:max_drop=0.01",
    "teacher": "distill:epochs=5",
}


def optimize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A file, or the id of a model or artifact.")],
    target: Annotated[
        list[str],
        typer.Option(
            "--target", help="Where the engine runs: RUNTIME[:k=v,…], several with commas or repeated."
        ),
    ] = ["onnxruntime-cpu"],  # noqa: B006 - typer reads the default
    passes: Annotated[
        list[str],
        typer.Option(
            "--pass", metavar="NAME[:k=v,…]", help="A pass, in order; repeat. None: the target's preset."
        ),
    ] = [],  # noqa: B006
    recipe: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A recipe as JSON, in place of --pass.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="FILE|ID", help="Calibration data (.npz), read by passes that calibrate."),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(metavar="FILE|ID", help="Training data, read by passes that train."),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|ID",
            help="Labelled data on which passes that train choose the best weights, and others hold a bound of their own "
            "(max_drop); best not that of --evaluate.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="FILE|ID", help="The network that passes learn from. Default: MODEL itself."),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(metavar="FILE|ID", help="Data to measure on, and accuracy if it is labelled."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="What accuracy means; see `burnish metrics`. Default: top1 for classes."),
    ] = None,
    metric_output: Annotated[
        str | None, typer.Option(help="The output that the metric reads, where the model has several.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(min=0, help="How much accuracy may be lost: 0.01 is one point of 0..1.")
    ] = None,
    signature: Annotated[
        list[str],
        typer.Option(metavar="NAME:DTYPE:DIM,…", help="An input, for files that do not tell; repeat."),
    ] = [],  # noqa: B006
    architecture: Annotated[
        str | None, typer.Option(help="The architecture, for files that hold weights alone.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the job.")] = None,
    allow_synthetic: Annotated[
        bool, typer.Option("--allow-synthetic", help="Generated data may stand in for calibration data.")
    ] = False,
    allow_unmeasured: Annotated[
        bool, typer.Option("--allow-unmeasured", help="Take an engine that cannot run where it is built.")
    ] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Do every step anew.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="The seed of everything random.")] = 0,
    package: Annotated[
        list[str],
        typer.Option(
            "--package",
            metavar="FORM",
            help="Pack the engine as triton, docker or mlflow too; repeat. -o DIR: DIR-FORM.zip.",
        ),
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Where to unpack the engine (several targets: a folder each)."),
    ] = None,
    force: ForceOption = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done for each target, or why not; queue nothing."),
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an engine: upload MODEL, optimize it, compare it with the original, download it.

    Exit status: 0 done, 1 the job failed or would be refused (--dry-run), 2 wrong usage, 3 the service cannot be reached.
    """
    if passes and recipe is not None:
        raise Failure("--pass and --recipe exclude each other", status=USAGE)
    if max_drop is not None and evaluate is None:
        raise Failure("--max-drop needs --evaluate: data to measure accuracy on", status=USAGE)
    targets = parse_targets(target)
    steps = read_recipe(recipe) if recipe is not None else None
    if passes:
        steps = {"schema": 1, "passes": [parse_pass(text) for text in passes]}
    if out is not None:
        bundles.check_destination(out, force)
    console = stderr()
    with connect(url) as client:
        uploads = Uploads(client, console)
        body: Json = {
            "kind": "optimize",
            "subject": uploads.model(model, signature, architecture),
            "targets": targets,
            "options": {
                "allow_synthetic": allow_synthetic,
                "allow_unmeasured": allow_unmeasured,
                "no_cache": no_cache,
                "package": package,
                "seed": seed,
            },
        }
        if name is not None:
            body["name"] = name
        if evaluate is not None:
            data = uploads.dataset(evaluate)
            body["evaluation"] = {"dataset": data["id"], "metric": metric or default_metric(data)}
            if metric_output is not None:
                body["evaluation"]["output"] = metric_output
        if max_drop is not None:
            body["budget"] = {"max_drop": max_drop}
        given = {"calibration": dataset, "train": train, "validation": validation}
        ids = {role: uploads.dataset(one)["id"] for role, one in given.items() if one is not None}
        if teacher is not None:
            ids["teacher"] = uploads.model(teacher, [], None)
        body |= recipe_of(client, steps, ids)
        if dry_run:
            tell_plan(client.validate(body["subject"], body), as_json)
        job = watch(client, client.submit(body)["id"], console)
        jobs = [client.show("jobs", child) for child in job["children"]] or [job]
        if not as_json:
            for each in jobs:
                show_outcome(each)
            if len(jobs) > 1:
                console.print(targets_table(jobs))
        if out is not None:
            fetch_engines(client, jobs, out, console)
    if as_json:
        print_json(job if not job["children"] else {**job, "children": jobs})
    leave(DONE if job["status"] == "succeeded" else FAILED)


class Uploads:
    """Files become ids: each is uploaded once, and waited for until it is inspected."""

    def __init__(self, client: Client, console: Console):
        self._client = client
        self._console = console
        self._datasets: dict[str, Json] = {}

    def model(self, given: str, signature: list[str], architecture: str | None) -> str:
        """The id of a model or artifact."""
        if is_id(given, "mdl_", "art_"):
            return given
        path = file_of(given, "a model")
        with bytes_bar(self._console, f"uploading {path.name}") as progress:
            model = self._client.upload_model(
                path, signature=signature, architecture=architecture, progress=progress
            )
        with busy(self._console, f"inspecting {path.name}"):
            ready = self._client.wait_model(model["id"])
        return str(ready["id"])

    def dataset(self, given: str) -> Json:
        """An inspected dataset."""
        if given not in self._datasets:
            self._datasets[given] = self._dataset(given)
        return self._datasets[given]

    def _dataset(self, given: str) -> Json:
        if is_id(given, "dat_"):
            return self._client.wait_dataset(given)
        path = file_of(given, "a dataset")
        with bytes_bar(self._console, f"uploading {path.name}") as progress:
            dataset = self._client.upload_dataset(path, progress=progress)
        with busy(self._console, f"inspecting {path.name}"):
            return self._client.wait_dataset(dataset["id"])


def is_id(given: str, *prefixes: str) -> bool:
    """Whether an argument is an id and not a file of that name."""
    return given.startswith(prefixes) and not Path(given).exists()


def file_of(given: str, what: str) -> Path:
    """The file that an argument names.

    Raises:
        Failure: there is none.
    """
    path = Path(given)
    if path.is_dir():
        raise Failure(
            f"{given} is a directory",
            hint="pack a model with external weights as one .zip or .tar",
            status=USAGE,
        )
    if not path.is_file():
        raise Failure(f"{given} is neither a file nor the id of {what}", status=USAGE)
    return path


def default_metric(dataset: Json) -> str:
    """The metric for labels that name classes.

    Raises:
        Failure: the labels do not, so nobody but the user knows.
    """
    if dataset["labels"] and dataset["labels"].get("classes"):
        return "top1"
    raise Failure(
        "what accuracy means on this data is not plain: it has no labels that name classes",
        hint="say it with --metric; see `burnish metrics`",
        status=USAGE,
    )


def recipe_of(client: Client, recipe: Json | None, given: Mapping[str, str]) -> Json:
    """The part of a job's body that says what is done: a recipe, or what the preset may read; `given` are ids by role.

    Raises:
        Failure: no pass of the recipe would read some of the data.
    """
    if recipe is None:
        if unread := next((role for role in given if role not in PRESET_ROLES), None):
            raise Failure(
                f"no preset reads {OPTIONS[unread]}",
                hint=f"name a pass that does, as in --pass {EXAMPLES[unread]}",
                status=USAGE,
            )
        return {"inputs": dict(given)} if given else {}
    passes = recipe["passes"]
    for role, id_ in given.items():
        passes, used = bind_data(passes, client.passes(), role, id_)
        if not used:
            raise Failure(
                f"no pass of this recipe reads {OPTIONS[role]}",
                hint="leave it out, or see `burnish passes`",
                status=USAGE,
            )
    return {"recipe": {**recipe, "passes": passes}}


def tell_plan(answer: Json, as_json: bool) -> NoReturn:
    """Print what a job would do, and leave: 1 where a target would be refused."""
    if as_json:
        print_json(answer)
    else:
        print_plan(stdout(), answer)
    leave(DONE if answer["valid"] else FAILED)


def watch(client: Client, job_id: str, console: Console) -> Json:
    """Show a job's way to its end. Ctrl-C leaves the job running."""
    try:
        with job_bar(console) as show:
            return client.wait(job_id, show)
    except KeyboardInterrupt:
        console.print(f"\nThe job goes on. Its end: [bold]burnish jobs wait {job_id}[/]", soft_wrap=True)
        console.print(f"Or end it: [bold]burnish jobs cancel {job_id}[/]", soft_wrap=True)
        leave(INTERRUPTED)


def show_outcome(job: Json) -> None:
    """The result of a finished job, and its problem if it has one."""
    console = stdout()
    runtime = job["targets"][0]["runtime"] if job["targets"] else ""
    if job["result"] is not None and "optimized" in job["result"]:
        print_result(console, job["result"], f"{job['name'] or job['id']} on {runtime}")
    elif job["result"] is not None and "profile" in job["result"]:
        print_profile(console, job)
    if job["problem"] is not None:
        print_problem(job["problem"])
        stderr().print(f"  [dim]log:[/] burnish jobs logs {job['id']}", soft_wrap=True)
        if engine := engine_of(job):
            stderr().print(
                f"  [dim]the engine is kept:[/] burnish download {engine} -o engine.zip", soft_wrap=True
            )


def engine_of(job: Mapping[str, Any]) -> str | None:
    """The id of the engine that a job made."""
    return ((job["result"] or {}).get("artifacts") or {}).get("engine")


def fetch_engines(client: Client, jobs: list[Json], out: Path, console: Console) -> None:
    """Download and unpack the engine of every job that succeeded; a folder each where there are several."""
    for name, job in named_by_target(jobs):
        engine = engine_of(job)
        if job["status"] != "succeeded" or engine is None:
            continue
        folder = out / name if len(jobs) > 1 else out
        with bytes_bar(console, "downloading the engine") as progress:
            fetch_engine(client, engine, folder, progress)
        console.print(f"The engine is in [bold]{folder}[/]: try `python {folder / 'run.py'}`", soft_wrap=True)
        for form in job["options"]["package"]:
            if (packed := job["result"]["artifacts"].get(form)) is not None:
                client.download(packed, folder.with_name(f"{folder.name}-{form}.zip"))
                console.print(
                    f"For {form}: [bold]{folder.with_name(f'{folder.name}-{form}.zip')}[/]", soft_wrap=True
                )


def fetch_engine(
    client: Client, engine: str, folder: Path, progress: Callable[[int, int], None] | None = None
) -> Json:
    """Download a bundle and unpack it into `folder`; its manifest."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".burnish-", dir=folder.parent) as temporary:
        archive = client.download(engine, Path(temporary) / "engine.zip", progress)
        return bundles.unpack(archive, folder)
