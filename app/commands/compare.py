"""`burnish compare JOB JOB`: a change for continuous integration, judged by intervals and not by luck."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

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
    print_rows,
    stderr,
    stdout,
)
from app.commands.compare_profiles import difference_json, print_difference, profiles_of
from app.commands.tables import bytes_text, interval_text, ms_text

Json = dict[str, Any]


class Regression(StrEnum):
    """What a second engine may be, against a first."""

    SLOWER = "slower"
    LARGER = "larger"
    WORSE = "worse"


@dataclass(frozen=True)
class Verdict:
    """One quantity of both jobs, and whether the second is a regression; None: it cannot be told, `why` not."""

    quantity: str
    first: str
    second: str
    regression: bool | None
    why: str


def compare(
    first: Annotated[str, typer.Argument(metavar="JOB", help="The job that was.")],
    second: Annotated[str, typer.Argument(metavar="JOB", help="The job that is.")],
    fail_if: Annotated[
        list[Regression],
        typer.Option("--fail-if", help="Exit with 1 where the second engine is that; repeat."),
    ] = [],  # noqa: B006 - typer reads the default
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="Profile both engines now, and say which layers explain the difference."
        ),
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the engines of two finished jobs, or two profiles layer by layer.

    slower: the 95% intervals of the speed-ups do not overlap, the second lies below (jobs on the same model: both
    speed-ups are against the same original). On different models, which have no common yardstick, a 50% latency more
    than 5% above. larger: more bytes. worse: the intervals of the accuracies do not overlap, the second is worse.
    Of two profiles: the 95% intervals of their latencies. What cannot be told counts as a failure of --fail-if: a check that checks nothing must not pass.
    """
    if first == second:
        raise Failure("a job is always like itself: give two", status=USAGE)
    with connect(url) as client:
        before, after = client.show("jobs", first), client.show("jobs", second)
        higher_is_better = {row["name"]: row["higher_is_better"] for row in client.metrics()}
        of_profiles = check_comparable(before, after)
        profiles = profiles_of(client, (before, after)) if of_profiles or layers else None
    verdicts = {Regression.SLOWER: (slower_profile if of_profiles else slower)(before, after)}
    if not of_profiles:
        verdicts |= {
            Regression.LARGER: larger(before, after),
            Regression.WORSE: worse(before, after, higher_is_better),
        }
    if unknown := set(fail_if) - set(verdicts):
        raise Failure(f"profiles tell nothing of --fail-if {min(unknown).value}", status=USAGE)
    failed = [kind for kind in fail_if if verdicts[kind].regression is not False]
    if as_json:
        print_json(
            {
                "first": first,
                "second": second,
                "verdicts": {kind.value: asdict(verdict) for kind, verdict in verdicts.items()},
                "failed": [kind.value for kind in failed],
                "layers": difference_json(*profiles) if profiles else None,
            }
        )
    else:
        print_rows(
            {
                "": lambda row: row["quantity"],
                _heading(before, after): lambda row: row["first"],
                _heading(after, before): lambda row: row["second"],
                "verdict": lambda row: row["verdict"],
                "why": lambda row: row["why"],
            },
            [{**asdict(verdict), "verdict": _word(kind, verdict)} for kind, verdict in verdicts.items()],
        )
        if profiles:
            print_difference(stdout(), *profiles)
        for kind in failed:
            stderr().print(f"[bold red]--fail-if {kind.value}[/]: {_word(kind, verdicts[kind])}")
    leave(FAILED if failed else DONE)


def check_comparable(first: Json, second: Json) -> bool:
    """Whether both are profiles, and not engines.

    Raises:
        Failure: one is a profile and the other an engine, or one has no result.
    """
    kinds = []
    for job in (first, second):
        kind = next((name for name in ("optimized", "profile") if (job["result"] or {}).get(name)), None)
        if kind is None:
            raise Failure(
                f"the job {job['id']} has no result to compare (it is {job['status']})", status=USAGE
            )
        kinds.append(kind)
    if kinds[0] != kinds[1]:
        raise Failure("one job made an engine, the other a profile", hint="give two of a kind", status=USAGE)
    return kinds[0] == "profile"


def slower_profile(first: Json, second: Json) -> Verdict:
    """Whether what the second profile is of is slower: by the latencies that were taken without a profiler."""
    a, b = (
        {"value": one["p50_ms"], "low": one["low_ms"], "high": one["high_ms"]}
        for one in (job["result"]["profile"]["latency"] for job in (first, second))
    )
    texts = [interval_text(one, " ms") for one in (a, b)]
    return Verdict("latency p50", texts[0], texts[1], *_below(a, b))


def slower(first: Json, second: Json) -> Verdict:
    """Whether the second engine is slower."""
    if any(job["result"]["comparison"]["speedup"] is None for job in (first, second)):
        return Verdict("speed-up", "–", "–", None, "an engine that could not be measured")
    same = first["subject"] == second["subject"] and first["targets"] == second["targets"]
    if not same:
        before, after = (job["result"]["optimized"]["latency"]["p50_ms"] for job in (first, second))
        why = "different models or targets: latency p50, more than 5% counts"
        return Verdict("latency p50", ms_text(before), ms_text(after), after > 1.05 * before, why)
    a, b = (job["result"]["comparison"]["speedup"] for job in (first, second))
    texts = [interval_text(one, "×") if one.get("value") is not None else "–" for one in (a, b)]
    return Verdict("speed-up", texts[0], texts[1], *_below(b, a))


def larger(first: Json, second: Json) -> Verdict:
    """Whether the second engine has more bytes."""
    before, after = (job["result"]["optimized"]["size_bytes"] for job in (first, second))
    return Verdict(
        "size", bytes_text(before), bytes_text(after), after > before, f"{after - before:+d} bytes"
    )


def worse(first: Json, second: Json, higher_is_better: Mapping[str, bool]) -> Verdict:
    """Whether the second engine is less accurate."""
    a, b = (job["result"]["optimized"].get("accuracy") for job in (first, second))
    texts = [interval_text(one) if one else "–" for one in (a, b)]
    if not a or not b or a.get("metric") != b.get("metric"):
        return Verdict("accuracy", texts[0], texts[1], None, "not the same metric on both")
    better_above = higher_is_better.get(a["metric"], True)
    return Verdict(a["metric"], texts[0], texts[1], *(_below(b, a) if better_above else _below(a, b)))


def _below(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Whether the whole interval of one lies below that of the other."""
    if one.get("high") is None or other.get("low") is None:
        return None, "there is no interval"
    if one["high"] < other["low"]:
        return True, "the intervals do not overlap"
    return False, "the intervals overlap" if (one.get("low") or 0) <= (
        other.get("high") or 0
    ) else "it is better"


def _heading(job: Json, other: Json) -> str:
    """A job's name, where that tells it from the other."""
    name, id_ = job["name"], str(job["id"])
    return str(name) if name and name != other["name"] else id_


def _word(kind: Regression, verdict: Verdict) -> str:
    if verdict.regression is None:
        return "cannot be told"
    return kind.value if verdict.regression else f"not {kind.value}"
