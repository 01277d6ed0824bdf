"""Random transforms of training samples: what each does to a sample follows from the seed, the epoch and its number alone."""

from collections.abc import Callable, Sequence

import numpy as np

from app.catalog import transforms
from app.catalog.transforms import Random
from app.errors import InvalidDataset, InvalidParams
from workers.context import Feeds
from workers.training import image_draws
from workers.training.task import STAGE

Sample = tuple[Feeds, np.ndarray | None]
Read = Callable[[int], Sample]  # a sample of the dataset by its number, as it is stored


class Augment:
    """The transforms of a recipe, in order. `classes`: how many the network tells apart, where labels are their numbers."""

    def __init__(self, steps: Sequence[Random], seed: int, classes: int | None):
        self._steps = tuple(steps)
        self._seed = seed
        self._classes = classes

    def __call__(self, index: int, epoch: int, count: int, read: Read) -> Sample:
        """A sample as the network sees it in this epoch; `read` gives any of the `count` ones.

        Raises:
            InvalidParams: a transform does not fit the samples.
            InvalidDataset: a label numbers no class.
        """
        return self._upto(len(self._steps), index, epoch, count, read)

    def _upto(self, end: int, index: int, epoch: int, count: int, read: Read) -> Sample:
        sample = read(index)
        for number, step in enumerate(self._steps[:end]):
            random = np.random.default_rng([self._seed, epoch, index, number])
            if isinstance(step, transforms.Mixup):
                other = self._upto(number, int(random.integers(count)), epoch, count, read)
                sample = self._blended(sample, other, float(random.beta(step.alpha, step.alpha)), index)
            elif isinstance(step, transforms.Noise):
                sample = {name: _noisy(step, values, random) for name, values in sample[0].items()}, sample[1]
            else:
                sample = self._images(step, sample[0], random, index), sample[1]
        return sample

    @staticmethod
    def _images(step: Random, feeds: Feeds, random: np.random.Generator, index: int) -> Feeds:
        images = {name: values for name, values in feeds.items() if values.ndim == 3}
        if not images:
            raise InvalidParams(
                f"{step.do} takes images, and no input of sample {index} has three dimensions",
                stage=STAGE,
                param="augment",
                hint=f"leave {step.do} out",
            )
        return feeds | {name: image_draws.draw(step, image, random) for name, image in images.items()}

    def _blended(self, sample: Sample, other: Sample, share: float, index: int) -> Sample:
        mixed = {}
        for name, values in sample[0].items():
            if values.dtype.kind != "f":
                raise InvalidParams(
                    f"mixup blends floating-point numbers, input {name!r} holds {values.dtype}",
                    stage=STAGE,
                    param="augment",
                    hint="upload the data with a `normalize` transform, or leave mixup out",
                )
            if values.shape != other[0][name].shape:
                raise InvalidParams(
                    f"mixup blends samples of one shape, input {name!r} of sample {index} has {list(values.shape)}, "
                    f"the other {list(other[0][name].shape)}",
                    stage=STAGE,
                    param="augment",
                    hint="upload the data with a `resize` transform, or leave mixup out",
                )
            mixed[name] = (share * values + (1 - share) * other[0][name]).astype(values.dtype)
        if sample[1] is None or other[1] is None:
            return mixed, None
        blended = share * self._shares(sample[1], index) + (1 - share) * self._shares(other[1], index)
        return mixed, blended.astype(np.float32)

    def _shares(self, label: np.ndarray, index: int) -> np.ndarray:
        if label.dtype.kind == "f":
            return label
        if self._classes is None or label.ndim:
            raise InvalidParams(
                "mixup blends labels that number classes, or are numbers; these are neither",
                stage=STAGE,
                param="augment",
                hint="leave mixup out",
            )
        if not 0 <= label < self._classes:
            raise InvalidDataset(
                f"the label of sample {index} is {label}; the output has classes 0 to {self._classes - 1}",
                stage=STAGE,
                param="labels",
                hint="number the classes from 0, in the order of the model's output",
            )
        shares = np.zeros(self._classes)
        shares[int(label)] = 1
        return shares


def _noisy(step: transforms.Noise, values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    if values.dtype.kind != "f":
        return values
    noise = random.standard_normal(values.shape, np.float32) * np.float32(step.std)
    noisy: np.ndarray = (values + noise).astype(values.dtype)
    return noisy
