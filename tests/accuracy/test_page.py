"""The page of figures has a row for whatever is judged, as `python -m tests.accuracy.table` writes it."""

from tests.accuracy import table
from tests.accuracy.cases import CASES, RUNTIMES
from tests.accuracy.subjects import SUBJECTS


def test_the_page_has_every_network_target_and_recipe() -> None:
    text = table.PAGE.read_text(encoding="utf-8")
    kept = table.sections(text)
    assert text == table.HEAD + "\n".join(kept[name] for name in SUBJECTS) + "\n", (
        "run `python -m tests.accuracy.table`"
    )
    wanted = [*(f"`{runtime}`, preset" for runtime in RUNTIMES), *(table.target(case) for case in CASES)]
    for name in SUBJECTS:
        rows = [line.split(" | ") for line in kept[name].splitlines() if line.startswith("| `")]
        assert [row[0].removeprefix("| ") for row in rows] == wanted
        assert [row[1] for row in rows[len(RUNTIMES) :]] == [table.recipe(case.passes) for case in CASES]
