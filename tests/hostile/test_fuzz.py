"""Mutated real files through inspection: each is taken, or refused with a clear problem. Bounded in time, from a seed.

A file that is not is kept in FUZZ_DIR, with the seed in its name: `mutated(seed)` makes it again.
"""

import os
import random
import time
from pathlib import Path

import pytest

from tests.hostile.case import READY
from tests.hostile.forks import Forks
from tests.hostile.fuzzing import mutated, seeds
from tests.hostile.judge import faults, text_faults, texts

SECONDS = float(os.environ.get("FUZZ_SECONDS", "180"))
START = os.environ.get("FUZZ_SEED")
KEPT = Path(os.environ.get("FUZZ_DIR", "/tmp/burnish-fuzz"))
CODES = {READY, "invalid_model", "invalid_dataset", "unsupported_format", "unsafe_model", "payload_too_large"}
FOUND: tuple[int, ...] = ()  # seeds of files that were once answered wrongly


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_mutated_files_get_clear_answers(forks: Forks) -> None:
    first = int(START) if START else random.SystemRandom().randrange(2**40)
    print(f"FUZZ_SEED={first}")  # noqa: T201 - shown where it fails
    wrong: list[str] = []
    codes: dict[str, int] = {}
    seed, end = first, time.monotonic() + SECONDS
    while time.monotonic() < end and len(wrong) < 20:
        code, faults_ = answered(forks, seed)
        codes[code] = codes.get(code, 0) + 1
        wrong += faults_
        seed += 1
    print(f"{seed - first} files: {codes}")  # noqa: T201
    assert wrong == []
    assert codes.get(READY, 0) > 0
    assert len(codes) > 1


@pytest.mark.parametrize("seed", [*range(25), *FOUND])
def test_some_mutated_files_get_clear_answers(seed: int, forks: Forks) -> None:
    assert answered(forks, seed)[1] == []


def test_a_seed_gives_the_same_file_again() -> None:
    assert [mutated(seed) for seed in range(20)] == [mutated(seed) for seed in range(20)]
    assert {mutated(seed)[0].split(",")[0] for seed in range(100)} == set(seeds())


def answered(forks: Forks, seed: int) -> tuple[str, list[str]]:
    """The code of the answer to a seed's file, and what is wrong with the answer; such a file is kept."""
    name, subject, data = mutated(seed)
    outcome = forks.inspect(data, subject)
    found = [] if outcome.code in CODES else [f"{outcome.code}: {outcome.said or outcome.log[-1500:]}"]
    if outcome.said is not None:
        said = outcome.said.get("problem") or outcome.said["result"]
        if outcome.code != READY:
            found += faults(said, str(forks.folder))
        else:
            shown = {key: value for key, value in said.items() if key != "root"}
            found += [fault for text in texts(shown) for fault in text_faults(text, str(forks.folder))]
    if found:
        KEPT.mkdir(exist_ok=True)
        (KEPT / f"{seed}-{subject}").write_bytes(data)
    return outcome.code, [f"seed {seed} ({name}): {fault}" for fault in found]
