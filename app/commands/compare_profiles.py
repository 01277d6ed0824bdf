"""Which layers explain a difference of two jobs: two profiles, made now where the jobs are none."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.client import Client
from app.commands.common import USAGE, Failure, stderr
from app.commands.optimize import engine_of, watch
from app.commands.tables import ms_text
from app.profiles.difference import Change, changes, explaining
from app.profiles.schemas import Profile

Json = dict[str, Any]
SHOWN = 10


def profiles_of(client: Client, jobs: tuple[Json, Json]) -> tuple[Profile, Profile]:
    """The profiles of two jobs: their own, or new ones of the engines that they made.

    Raises:
        Failure: a job has neither, or its engine cannot be profiled.
    """
    first, second = (_profile(client, job) for job in jobs)
    return first, second


def _profile(client: Client, job: Json) -> Profile:
    if job["kind"] != "profile":
        job = _profiled(client, job)
    with tempfile.TemporaryDirectory(prefix="burnish-") as temporary:
        path = client.download(job["result"]["artifacts"]["profile"], Path(temporary) / "profile.json")
        return Profile.model_validate_json(path.read_bytes())


def _profiled(client: Client, job: Json) -> Json:
    engine = engine_of(job)
    if engine is None:
        raise Failure(f"the job {job['id']} has neither a profile nor an engine", status=USAGE)
    body = {"kind": "profile", "subject": engine, "name": f"for compare: {job['name'] or job['id']}"[:200]}
    found = watch(client, client.submit(body)["id"], stderr())
    if found["status"] != "succeeded":
        raise Failure(f"the engine of {job['id']} could not be profiled: {found['problem']['detail']}")
    return found


def print_difference(console: Console, before: Profile, after: Profile) -> None:
    """The layers that differ most, and those that explain the whole difference."""
    found = changes(before, after)
    table = Table(title="layers", title_justify="left", title_style="bold", header_style="bold")
    for column in ("layers", "before", "after", "difference", "what"):
        table.add_column(column, justify="left" if column in ("layers", "what") else "right")
    for change in found[:SHOWN]:
        cells = (
            change.name,
            "–" if change.before is None else ms_text(change.before.ms),
            "–" if change.after is None else ms_text(change.after.ms),
            f"{change.difference_ms:+.3g} ms",
            change.words,
        )
        table.add_row(*map(escape, cells))
    console.print(table)
    console.print(escape(sentence(found)), soft_wrap=True)


def sentence(found: list[Change]) -> str:
    """What explains the difference, in a few sentences."""
    named = explaining(found)
    told = []
    if found and found[0].pace != 1:
        told.append(
            f"what both compute in the same way takes {found[0].pace:.2f} times as long as before: the machine was busier or "
            "slower during one of the profiles, so differences are counted beyond that"
        )
    if named:
        whole = sum(change.difference_ms for change in found)
        inside = sum(change.difference_ms for change in named)
        told.append(f"{inside:+.3g} of {whole:+.3g} ms lie in {_names(named)}")
    else:
        told.append("no layer explains a difference: all take about as long")
    if otherwise := [change for change in found if change.otherwise and change not in named]:
        told.append(f"computed otherwise than before: {_names(otherwise)}")
    return "; ".join(told)


def _names(found: list[Change]) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(f"{change.name} ({change.words})" for change in found[:SHOWN]) + more


def difference_json(before: Profile, after: Profile) -> Json:
    """The same for programs."""
    found = changes(before, after)
    return {
        "changes": [
            {
                **asdict(change),
                "name": change.name,
                "difference_ms": change.difference_ms,
                "words": change.words,
            }
            for change in found
        ],
        "explained_by": [change.name for change in explaining(found)],
        "pace": found[0].pace if found else 1.0,
        "sentence": sentence(found),
    }
