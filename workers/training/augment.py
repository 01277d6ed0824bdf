"""Random transforms of training samples: what each does to a sample follows from the seed, the epoch and its number alone."""

from collections.abc import Callable, Sequence

import numpy as np

from app.catalog import transforms
from app.catalog.transforms import Random
from app.errors import InvalidDataset, InvalidParams
from workers.context import Feeds

STAGE = "training"
Sample = tuple[Feeds, np.ndarray | None]
Another = Callable[
    [int], Sample
]  # a sample of the dataset by its number, transformed by all that stands before


class Augment:
    """The transforms of a recipe, in order. Images are arrays [channels, rows, columns]; other inputs stay as they are.

    `classes`: how many the network tells apart, where labels are their numbers.
    """

    def __init__(self, steps: Sequence[Random], seed: int, classes: int | None):
        self._steps = steps
        self._seed = seed
        self._classes = classes

    def __call__(self, sample: Sample, index: int, epoch: int, count: int, read: Another) -> Sample:
        """A sample as the network sees it in this epoch; `read` gives others of the `count` ones, untransformed."""
        return self._apply(len(self._steps), sample, index, epoch, count, read)

    @property
    def blends(self) -> bool:
        """Whether labels become shares of classes."""
        return any(isinstance(step, transforms.Mixup) for step in self._steps)

    def _apply(self, upto: int, sample: Sample, index: int, epoch: int, count: int, read: Another) -> Sample:
        for number, step in enumerate(self._steps[:upto]):
            random = np.random.default_rng([self._seed, epoch, index, number])
            if isinstance(step, transforms.Mixup):
                other = int(random.integers(count))
                share = float(random.beta(step.alpha, step.alpha))
                given = self._apply(number, read(other), other, epoch, count, read)
                sample = self._blended(sample, given, share, index)
            else:
                feeds, label = sample
                work = _WORK[type(step)]
                found = False
                for name, values in feeds.items():
                    if values.ndim == 3:
                        found = True
                        feeds = {
                            **feeds,
                            name: work(
                                step, values, np.random.default_rng([self._seed, epoch, index, number])
                            ),
                        }
                if not found:
                    raise InvalidParams(
                        f"{step.do} takes images, and no input of sample {index} has three dimensions",
                        stage=STAGE, param="augment", hint=f"leave {step.do} out",
                    )  # fmt: skip
                sample = feeds, label
        return sample

    def _blended(self, sample: Sample, other: Sample, share: float, index: int) -> Sample:
        feeds, label = sample
        mixed = {}
        for name, values in feeds.items():
            if values.dtype.kind != "f":
                raise InvalidParams(
                    f"mixup blends floating-point numbers, input {name!r} holds {values.dtype}",
                    stage=STAGE, param="augment", hint="normalize the dataset, or leave mixup out",
                )  # fmt: skip
            mixed[name] = (share * values + (1 - share) * other[0][name]).astype(values.dtype)
        if label is None or other[1] is None:
            return mixed, None
        return mixed, share * self._shares(label, index) + np.float32(1 - share) * self._shares(
            other[1], index
        )

    def _shares(self, label: np.ndarray, index: int) -> np.ndarray:
        if label.dtype.kind == "f":
            return label.astype(np.float32)
        if self._classes is None or label.ndim:
            raise InvalidParams(
                "mixup blends labels that number classes, or numbers; these are neither",
                stage=STAGE, param="augment", hint="leave mixup out",
            )  # fmt: skip
        if not 0 <= label < self._classes:
            raise InvalidDataset(
                f"the label of sample {index} is {label}; the output has classes 0 to {self._classes - 1}",
                stage=STAGE, param="labels", hint="number the classes from 0, in the order of the model's output",
            )  # fmt: skip
        shares = np.zeros(self._classes, np.float32)
        shares[int(label)] = 1
        return shares


def _flip(step: transforms.Flip, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return image[..., ::-1] if random.random() < step.probability else image


def _random_crop(step: transforms.RandomCrop, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    rows, columns = image.shape[1:]
    padded = np.pad(image, ((0, 0), (step.padding,) * 2, (step.padding,) * 2))
    top, left = random.integers(0, 2 * step.padding + 1, 2)
    return padded[:, top : top + rows, left : left + columns]


_WORK: dict[type, Callable[..., np.ndarray]] = {transforms.Flip: _flip, transforms.RandomCrop: _random_crop}
