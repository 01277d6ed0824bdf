"""The two sides of the data path's figures read the same images, and the figures come."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.training.common import room
from benchmarks.training.data_path import SIZE, consume, measured_apart, opened
from benchmarks.training.images_tar import TarImages, plain_loader, write_tar
from workers.datasets.opening import FILES, TAR

COUNT = 200


def tar(folder: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), np.uint8)
    return write_tar(images, np.arange(COUNT) % 10, folder / FILES[TAR])


def test_both_sides_read_the_same_images(tmp_path: Path):
    plain = TarImages(tar(tmp_path), SIZE)
    with room() as place:
        kept = opened(place, tmp_path / FILES[TAR])
        seen = 0
        for batch in kept.epoch(1):
            for image, label, index in zip(batch.inputs[0], batch.labels, batch.indices, strict=True):
                expected, named = plain[int(index)]
                torch.testing.assert_close(image, expected)
                assert int(label) == named
                seen += 1
        kept.close()
    assert seen == consume(plain_loader(plain, 100, 0)) == COUNT
    plain.close()


def test_memory_is_that_of_a_process_that_read(tmp_path: Path):
    assert 50 < measured_apart(tar(tmp_path), COUNT)["peak_mib"] < 5000
