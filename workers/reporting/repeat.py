"""How to do a job again: its body, and the command that sends it."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from app.catalog.runtimes import RUNTIMES
from workers.assignment import JobAssignment

REPORT = "report.json"  # holds the recipe and the body: commands read them there
SWITCHES = ("allow_synthetic", "allow_unmeasured", "no_cache")

Json = dict[str, Any]


def request_of(assignment: JobAssignment) -> Json:
    """The body that asks for this job, its recipe pinned and its defaults filled in."""
    optional = {
        "evaluation": assignment.evaluation,
        "budget": assignment.budget,
        "data": assignment.data,
        "inputs": assignment.inputs,
        "advice": assignment.advice and {key: assignment.advice[key] for key in ("job", "number")},
        assignment.kind: assignment.asked,
    }
    return {
        "kind": assignment.kind,
        "subject": assignment.subject.id,
        "recipe": assignment.recipe,
        "targets": [assignment.target],
        "options": assignment.options,
        **{name: value for name, value in optional.items() if value},
    }


def command_of(request: Json) -> str:
    """The command that submits the body; options that say what is so anyway are left out."""
    if request["kind"] == "optimize" and not request.get("advice") and not request.get("inputs"):
        words = _optimize(request)
    elif request["kind"] == "profile" and not request["recipe"]["passes"]:
        words = _profile(request)
    else:
        words = ["jobs", "submit", REPORT]
    return shlex.join(["burnish", *words])


def _optimize(request: Json) -> list[str]:
    options, evaluation = request["options"], request.get("evaluation")
    words = [
        "optimize",
        request["subject"],
        "--recipe",
        REPORT,
        "--target",
        target_text(request["targets"][0]),
    ]
    if evaluation:
        words += ["--evaluate", evaluation["dataset"], "--metric", evaluation["metric"]]
        if evaluation.get("output") is not None:
            words += ["--metric-output", evaluation["output"]]
    if budget := request.get("budget"):
        words += ["--max-drop", repr(budget["max_drop"])]
    if options.get("seed"):
        words += ["--seed", str(options["seed"])]
    words += [f"--{name.replace('_', '-')}" for name in SWITCHES if options.get(name)]
    return words + [word for form in options.get("package", []) for word in ("--package", form)]


def _profile(request: Json) -> list[str]:
    asked = request["profile"]
    words = ["profile", request["subject"], "--target", target_text(request["targets"][0])]
    if request.get("data"):
        words += ["--data", request["data"]]
    if asked.get("batch"):
        words += ["--batch", str(asked["batch"])]
    words += ["--seconds", repr(asked["seconds"])]
    return words + [word for form in asked["traces"] for word in ("--trace", form)]


def target_text(target: Mapping[str, Any]) -> str:
    """A target as the command line takes it: its runtime, and the parameters that are not their defaults."""
    spec = RUNTIMES[target["runtime"]].params
    given = spec.model_validate(target["params"]).model_dump(mode="json", exclude_defaults=True)
    pieces = [f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in given.items()]
    return f"{target['runtime']}:{','.join(pieces)}" if pieces else str(target["runtime"])
