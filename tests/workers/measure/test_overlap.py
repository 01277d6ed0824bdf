"""Samples that passes and evaluation share."""

import numpy as np

from tests.workers.engines.networks import ArraySamples
from workers.measure.overlap import overlap, overlap_warning
from workers.samples import synthetic_samples

IMAGES = np.random.default_rng(0).standard_normal((600, 3, 4)).astype(np.float32)
MASKS = np.arange(600)


def samples(rows: list[int], digest: str, labels: int = 0, masks: int = 0) -> ArraySamples:
    found = ArraySamples({"x": IMAGES[rows], "mask": MASKS[rows] * 0 + masks}, np.full(len(rows), labels))
    found.digest = digest
    return found


def test_shared_rows_are_counted_whatever_their_place_and_labels():
    first, second = samples(list(range(300)), "a", labels=1), samples([599, 0, 2, 299], "b", labels=2)
    evaluation = samples([*range(290, 500), 599, 5], "c")
    assert overlap([first, second], evaluation) == 10 + 1 + 1
    warning = overlap_warning([first, second], evaluation)
    assert warning is not None
    assert warning.startswith("12 of 212 evaluation samples")


def test_every_input_counts():
    assert overlap([samples([1, 2], "a", masks=1)], samples([1, 2], "b", masks=2)) == 0


def test_the_same_dataset_needs_no_reading():
    class Unread(ArraySamples):
        def batches(self, size, limit=None):
            raise AssertionError("read")

    unread = Unread({"x": IMAGES})
    assert overlap([unread], unread) == 600


def test_nothing_shared_is_nothing_to_say():
    assert overlap_warning([samples([1], "a")], samples([2], "b")) is None
    assert overlap_warning([], samples([2], "b")) is None


def test_generated_samples_do_not_count():
    signature = {"inputs": [{"name": "x", "dtype": "float32", "shape": [None, 2]}], "outputs": []}
    generated = synthetic_samples(signature, 0, 5)
    assert overlap([generated], generated) == 0
