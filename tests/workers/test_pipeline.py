"""What an attempt says of its data before it does anything."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workers.assignment import DatasetFiles, JobAssignment, SubjectFiles
from workers.pipeline import Attempt, unscaled
from workers.steps import Steps


def assignment(folder: Path, taken: str, held: str) -> JobAssignment:
    np.savez(folder / "data.npz", images=np.zeros((4, 3), held), labels=np.zeros(4, np.int64))
    subject = SubjectFiles(
        id="mdl_1", digest="0" * 64, root=folder, entry="model.onnx", format="onnx", name="net", facts={},
        signature={"inputs": [{"name": "images", "dtype": taken, "shape": [None, 3]}], "outputs": []},
    )  # fmt: skip
    return JobAssignment(
        job_id="job_1", attempt=1, scratch=folder, subject=subject, recipe={}, target={}, evaluation=None, budget=None,
        options={}, measure_seconds=1.0, measure_launches=5,
        datasets={"dat_1": DatasetFiles(id="dat_1", digest="1" * 64, root=folder, format="npz", name="shots")},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("taken", "held", "warned"),
    [
        ("float32", "uint8", True),
        ("float32", "float32", False),
        ("uint8", "uint8", False),
        ("int64", "int32", False),
    ],
)
def test_integers_that_a_model_takes_as_numbers_are_warned_of(
    taken: str, held: str, warned: bool, tmp_path: Path
):
    given = assignment(tmp_path, taken, held)
    nobody: Any = None  # is told of anything
    said = unscaled(Attempt(given, nobody, Steps(nobody, tmp_path)))
    assert len(said) == warned
    if warned:
        assert "the dataset shots holds uint8 as 'images'" in said[0]
        assert "normalize" in said[0]
