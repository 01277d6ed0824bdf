"""Write `docs/accuracy.md`: `python -m tests.accuracy.table [SUBJECT…]`.

Trains and fetches what is not in the cache yet. With subjects, only those sections are made anew.
"""

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.accuracy.cases import CASES, MAX_DROP, RUNTIMES, Case, Outcome
from tests.accuracy.direct import Bench
from tests.accuracy.jobs import preset, service, upload
from tests.accuracy.subjects import SUBJECTS, Subject

PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
HEAD = f"""\
<!-- Written by `python -m tests.accuracy.table`. -->

# Accuracy before and after

Trained networks on labelled test data that neither training nor calibration has seen. Each is uploaded as a `.pt2`. The first rows of a
table are each target's preset, as a job through a running service with a budget of {MAX_DROP} on top-1 accuracy; the others are recipes
that name their passes, by the workers' own code in one process. 512 samples of the training half are the calibration data. `original` is
the unmodified network in fp32 on the same runtime, fed with the same samples one by one.

The drop is in top-1 accuracy with its 95% interval ([how it is formed](measuring.md#outputs-first)); a negative one is a gain by
chance. `within` says whether the interval keeps to {MAX_DROP}. The size is the engine's files over the uploaded file. The last column is
the signal-to-noise ratio of the logits against the original's; a dash there: no difference at all, as nothing in the network was taken.
"""
COLUMNS = "| target | passes | original | engine | drop [95%] | within | size | SQNR, dB |"
TITLES = {
    "fashion": "A residual network on Fashion-MNIST",
    "digits": "A published classifier on MNIST",
    "sentiment": "A sentiment probe on MiniLM",
}
WHAT = {
    "fashion": "Seven 3×3 convolutions with batch norms and two 1×1 ones, 78,000 parameters, trained by `tests/accuracy/fashion.py` on the "
    "60,000 training images of [Fashion-MNIST](https://arxiv.org/abs/1708.07747) and kept in the user's cache; 10,000 test images.",
    "digits": "`MNISTNet` of [ccexam 1.0.0](https://pypi.org/project/ccexam/) with its published weights: two convolutions with bias, two "
    "linear layers; the 10,000 test images of MNIST. Its model card says 0.9904 recall.",
    "sentiment": "The published weights of all-MiniLM-L6-v2 (six layers, 22 million parameters), its mean pooling, and a linear layer that "
    "logistic regression fitted on 4,000 sentences of film reviews and tweets, all one network. 2,500 other sentences, each rated by twenty "
    "people ([Hutto and Gilbert, 2014](https://ojs.aaai.org/index.php/ICWSM/article/view/14550)): meant well or ill.",
}


def section(name: str, rows: Sequence[tuple[str, Outcome]]) -> Iterator[str]:
    """One network's part of the page, line by line."""
    yield from ("", f"## {TITLES[name]}", "", WHAT[name], "", COLUMNS, "| --- | --- |" + " --- |" * 6)
    for target, outcome in rows:
        yield f"| {target} | {' | '.join(_cells(outcome))} |"
    refused = [(target, outcome) for target, outcome in rows if outcome.problem]
    if refused:
        yield ""
    for target, outcome in refused:
        assert outcome.problem is not None
        yield f"- {target}, {recipe(outcome.passes)}: {' '.join(outcome.problem['detail'].split())[:300]}"


def rows(name: str, subject: Subject) -> Iterator[tuple[str, Outcome]]:
    """Every target and recipe with what came of it."""
    with tempfile.TemporaryDirectory(prefix="burnish-accuracy-") as temporary:
        folder = Path(temporary)
        with service(folder) as client:
            uploaded = upload(client, subject, folder)
            for runtime in RUNTIMES:
                yield _told(f"`{runtime}`, preset", preset(client, uploaded, runtime))
        bench = Bench(subject, folder / "direct")
        for case in CASES:
            yield _told(target(case), bench.outcome(case))


def _told(target: str, outcome: Outcome) -> tuple[str, Outcome]:
    sys.stderr.write(f"| {target} | {' | '.join(_cells(outcome))} |\n")  # it takes long: show how far it is
    return target, outcome


def target(case: Case) -> str:
    """A target with its parameters, as the page names it."""
    return f"`{':'.join([case.runtime, *(f'{key}={value}' for key, value in case.params.items())])}`"


def _cells(outcome: Outcome) -> Iterator[str]:
    yield recipe(outcome.passes)
    if outcome.problem:
        yield from (f"`{outcome.problem['code']}`", *["–"] * 5)
        return
    assert outcome.drop is not None
    yield from (f"{outcome.original:.4f}", f"{outcome.engine:.4f}")
    yield f"{outcome.drop['value']:+.4f} [{outcome.drop['low']:+.4f}, {outcome.drop['high']:+.4f}]"
    yield {True: "yes", False: "**no**"}.get(outcome.within, str(outcome.within))  # type: ignore[arg-type]
    yield f"{outcome.size_ratio:.2f}"
    yield "–" if outcome.sqnr_db is None else f"{outcome.sqnr_db:.1f}"


def recipe(passes: Sequence[Mapping[str, Any]]) -> str:
    """The passes without `simplify`, each with the parameters that tell it from its neighbours."""
    told = ("method", "bits", "model_type", "mode")
    steps = [
        f"`{step['pass']}`"
        + "".join(f" {step['params'][key]}" for key in told if _speaks(step.get("params", {}), key))
        for step in passes
        if step["pass"] != "simplify"
    ]
    return ", ".join(steps) or "–"


def _speaks(params: Mapping[str, Any], key: str) -> bool:
    return key in params and params[key] not in ("minmax", "none")


def main(names: Sequence[str]) -> int:
    """Judge everything, or the networks that are named, and write the page."""
    kept = sections(PAGE.read_text(encoding="utf-8")) if names and PAGE.exists() else {}
    for name in names or SUBJECTS:
        kept[name] = "\n".join(section(name, list(rows(name, SUBJECTS[name]()))))
    PAGE.write_text(
        HEAD + "\n".join(kept[name] for name in SUBJECTS if name in kept) + "\n", encoding="utf-8"
    )
    return 0


def sections(text: str) -> dict[str, str]:
    """The parts of a page, by network."""
    names = {title: name for name, title in TITLES.items()}
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return {
        names[title]: f"\n## {title}{body.rstrip()}"
        for title, body in zip(parts[::2], parts[1::2], strict=True)
        if title in names
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
