"""Every hostile file is answered with a clear problem, within its time and memory, and the next one is served."""

import shutil
from pathlib import Path

import pytest

from tests.hostile.case import READY, Hostile
from tests.hostile.corpus import CORPUS
from tests.hostile.forks import Forks, Outcome
from tests.hostile.judge import faults, text_faults, texts


def test_the_corpus_is_large_and_each_file_is_different() -> None:
    assert len(CORPUS) >= 200
    subjects = {one.subject for one in CORPUS.values()}
    assert subjects == {"model", "dataset"}


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_file_gets_a_clear_answer(name: str, forks: Forks) -> None:
    one = CORPUS[name]
    assert wrong_with(one, forks.inspect(one.make(), one.subject), str(forks.folder)) == []
    assert list(forks.folder.iterdir()) == []


def wrong_with(one: Hostile, outcome: Outcome, folder: str) -> list[str]:
    """What is wrong with an answer to a hostile file."""
    found = []
    if outcome.code not in one.codes:
        found.append(f"{outcome.code}, not {sorted(one.codes)}: {outcome.said or outcome.log}"[:2000])
    if outcome.said is None:
        return found
    if outcome.code == READY:
        shown = outcome.said["result"]
        for text in texts({key: value for key, value in shown.items() if key != "root"}):
            found += text_faults(text, folder)
        return found
    problem = outcome.said["problem"]
    if one.phrase not in problem["detail"]:
        found.append(f"{one.phrase!r} is not in {problem['detail']!r}")
    return found + faults(problem, folder)


def test_nothing_was_written_beside_the_scratch_folders() -> None:
    strayed = list(Path("/tmp").glob("burnish-hostile*"))
    for path in strayed:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert strayed == []
