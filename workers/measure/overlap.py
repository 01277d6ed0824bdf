"""Rows that stand both in data that passes read and in the evaluation data."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from workers.context import Samples

CHUNK_SAMPLES = 256
_DIGEST_BYTES = 16


def overlap_warning(read_by_passes: Iterable[Samples], evaluation: Samples) -> str | None:
    """What to say of evaluation samples that a pass has read too; None where there are none.

    Samples are equal where all their inputs are, byte by byte; labels do not count. Both sets are streamed; the digests
    of what passes read stay in memory (some 80 bytes a sample).
    """
    count = overlap(read_by_passes, evaluation)
    if not count:
        return None
    return (
        f"{count} of {evaluation.count} evaluation samples also stand in the data that passes read: accuracy on them "
        "says less about new data"
    )


def overlap(read_by_passes: Iterable[Samples], evaluation: Samples) -> int:
    """How many evaluation samples a pass has read too; generated samples count on neither side."""
    real = [samples for samples in read_by_passes if not samples.synthetic]
    if evaluation.synthetic or not real:
        return 0
    if any(samples.digest == evaluation.digest for samples in real):
        return evaluation.count
    seen: set[bytes] = set()
    for samples in real:
        seen.update(_digests(samples))
    return sum(digest in seen for digest in _digests(evaluation))


def _digests(samples: Samples) -> Iterator[bytes]:
    names = sorted(samples.inputs)
    for arrays, _ in samples.batches(CHUNK_SAMPLES):
        columns = [np.ascontiguousarray(arrays[name]) for name in names]
        for row in zip(*columns, strict=True):
            digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
            for name, values in zip(names, row, strict=True):
                digest.update(f"{name}\0{values.dtype}\0{values.shape}\0".encode())
                digest.update(values.tobytes())
            yield digest.digest()
