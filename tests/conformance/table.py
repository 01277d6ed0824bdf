"""Write `docs/conformance.md`: what became of the ONNX standard's cases on each runtime.

    python -m tests.conformance.table [FOLDER]

Without a folder: the cases that the installed onnx package generates.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from tests.conformance.cases import generated, stored
from tests.conformance.known import DEVIATIONS, RUNTIMES
from tests.conformance.running import Judged, judged

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def names_in(folder: str) -> list[str]:
    """The cases of a folder, or those generated (`-`)."""
    return sorted(generated()) if folder == "-" else sorted(case.name for case in stored(Path(folder)))


def page(found: Mapping[str, list[Judged]], source: str) -> Iterator[str]:
    """The page, line by line."""
    cases = len(next(iter(found.values())))
    yield from (
        "<!-- Written by `python -m tests.conformance.table`. -->",
        "",
        "# The ONNX standard's cases",
        "",
        f"{cases} cases of {source}, each through inspection, `simplify` and a runtime in fp32, its outputs held against the standard's.",
        "",
        "| runtime | right | refused with a reason | deviates, see below | wrong in silence | crashed |",
        "| --- | --- | --- | --- | --- | --- |",
    )
    for runtime, verdicts in found.items():
        counts = Counter(_kind(runtime, one) for one in verdicts)
        row = [counts[kind] for kind in ("right", "refused", "deviates", "wrong", "crashed")]
        yield f"| `{runtime}` | {' | '.join(map(str, row))} |"
    yield from ("", "## Refused", "", "| runtime | code | cases | for example |", "| --- | --- | --- | --- |")
    for runtime, verdicts in found.items():
        by_code: dict[str, list[Judged]] = defaultdict(list)
        for one in verdicts:
            if one.verdict == "refused":
                by_code[one.detail.partition(":")[0]].append(one)
        for code, ones in sorted(by_code.items()):
            detail = ones[0].detail.partition(": ")[2].replace("|", "\\|").replace("\n", " ")[:160]
            yield f"| `{runtime}` | `{code}` | {len(ones)} | `{ones[0].name}`: {detail} |"
    yield from (
        "",
        "## Deviations of a runtime",
        "",
        "What the runtime computes otherwise than the standard says, alone and without Burnish too. Engine and baseline run on the "
        "same runtime, so a job does not show it.",
        "",
        "| runtime | case | why |",
        "| --- | --- | --- |",
    )
    for runtime in found:
        for case, why in sorted(DEVIATIONS.get(runtime, {}).items()):
            yield f"| `{runtime}` | `{case}` | {why} |"


def _kind(runtime: str, one: Judged) -> str:
    if one.verdict in ("wrong", "fault") and one.name in DEVIATIONS.get(runtime, {}):
        return "deviates"
    return "wrong" if one.verdict == "fault" else one.verdict


def main() -> int:
    """Judge everything and write the page."""
    folder = sys.argv[1] if len(sys.argv) > 1 else "-"
    source = f"onnx {onnx.__version__}" if folder == "-" else folder
    names = names_in(folder)
    found = {runtime: judged(runtime, folder, names) for runtime in RUNTIMES}
    PAGE.write_text("\n".join(page(found, source)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
