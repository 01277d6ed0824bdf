"""Labelled PNG images in a tar, as WebDataset names them, and the plain ways to read them."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

SIDE = 64


def write_tar(images: np.ndarray, labels: np.ndarray, path: Path) -> Path:
    """Grey images [n, 28, 28] (uint8) enlarged to `SIDE`, in three channels as cameras leave them: `000000.png` and `000000.cls` each."""
    from PIL import Image

    with tarfile.open(path, "w") as tar:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image).resize((SIDE, SIDE)).convert("RGB").save(buffer, "png", compress_level=1)
            for ending, content in (("png", buffer.getvalue()), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{number:06d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


class TarImages(Dataset[tuple[torch.Tensor, int]]):
    """What one writes first: members are listed once, each image is found and decoded when it is asked for."""

    def __init__(self, path: Path, size: int):
        self._tar = tarfile.open(path)  # noqa: SIM115 - open as long as the dataset is
        self._size = size
        members = self._tar.getmembers()
        self._images, self._labels = members[::2], members[1::2]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        with Image.open(self._content(self._images[index])) as image:
            pixels = np.asarray(
                image.convert("RGB").resize((self._size, self._size), Image.Resampling.BILINEAR)
            )
        values = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255
        return values, int(self._content(self._labels[index]).read())

    def close(self) -> None:
        """Close the tar."""
        self._tar.close()

    def _content(self, member: tarfile.TarInfo) -> io.BytesIO:
        held = self._tar.extractfile(member)
        assert held is not None
        return io.BytesIO(held.read())


def plain_loader(data: TarImages, batch: int, workers: int) -> DataLoader[Any]:
    """A shuffling DataLoader as its documentation begins with it."""
    return DataLoader(data, batch_size=batch, shuffle=True, num_workers=workers, drop_last=True)


class Some(Sampler[int]):
    """So many samples at random, without repetition."""

    def __init__(self, total: int, count: int):
        self._total, self._count = total, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self._total)[: self._count].tolist())
