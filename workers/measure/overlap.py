"""Rows that stand both in data that passes read and in the data that judges them: they make accuracy look better."""

import hashlib
from collections.abc import Iterator

import numpy as np

from workers.context import Feeds, Samples

CHUNK = 64


def overlap_warning(read: Samples, judging: Samples) -> str | None:
    """A warning where samples (all inputs, labels apart) stand in both; None where none does."""
    if set(read.inputs) != set(judging.inputs):
        return None
    seen = set(row_digests(read))
    shared = sum(digest in seen for digest in row_digests(judging))
    if not shared:
        return None
    return (
        f"{shared} of {judging.count} evaluation samples also stand in the data that a pass read: "
        "the accuracy may look better than it is; evaluate on samples that no pass has seen"
    )


def row_digests(samples: Samples) -> Iterator[bytes]:
    """A digest of each sample."""
    for batch, _ in samples.batches(CHUNK):
        yield from (row_digest(batch, index) for index in range(len(next(iter(batch.values())))))


def row_digest(batch: Feeds, index: int) -> bytes:
    """The digest of one sample: every input's name, dtype, shape and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(batch):
        value = batch[name][index]
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.digest()
