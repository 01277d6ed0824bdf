"""What is done to a sample on its way to a network: declared as data, never code from the user.

The work is in `workers/datasets/transforming.py` and `workers/training/augment.py`. An image is an array of three dimensions,
its channels last as decoders give them, or first as most networks take them.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from app.catalog.spec import Params

Pixels = Annotated[int, Field(ge=1, le=16384)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Fixed(Params):
    """The same each time, for one array or each that it fits."""

    field: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        description="The array that it is for. Absent: each image; for `cast`, each array but the labels.",
    )


class Resize(_Fixed):
    """Scales an image to a size, or its shorter side to a length."""

    do: Literal["resize"] = Field(description="This transform's name.")
    height: Pixels | None = Field(default=None, description="Rows; with `width`.")
    width: Pixels | None = Field(default=None, description="Columns; with `height`.")
    shorter: Pixels | None = Field(
        default=None, description="The length of the shorter side; the other keeps the proportions."
    )
    filter: Literal["nearest", "bilinear", "bicubic"] = Field(
        default="bilinear",
        description="How pixels are interpolated (Pillow's, which smooth where they shrink).",
    )

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        sides = self.height is not None, self.width is not None
        if (self.shorter is None and sides != (True, True)) or (self.shorter is not None and any(sides)):
            raise ValueError("give height and width, or shorter alone")
        return self


class CenterCrop(_Fixed):
    """Cuts the middle out of an image."""

    do: Literal["center-crop"] = Field(description="This transform's name.")
    height: Pixels = Field(description="Rows.")
    width: Pixels = Field(description="Columns.")


class Pad(_Fixed):
    """Puts an image into the middle of a larger one."""

    do: Literal["pad"] = Field(description="This transform's name.")
    height: Pixels = Field(description="Rows.")
    width: Pixels = Field(description="Columns.")
    value: float = Field(default=0, description="Of the pixels around it.")


class Normalize(_Fixed):
    """Takes numbers to floats: (value * scale - mean) / std, per channel."""

    do: Literal["normalize"] = Field(description="This transform's name.")
    scale: float = Field(default=1 / 255, description="Before the mean is taken off.")
    mean: list[float] = Field(
        default=[0.0], min_length=1, max_length=64, description="Per channel, or one for all."
    )
    std: list[Annotated[float, Field(gt=0)]] = Field(
        default=[1.0], min_length=1, max_length=64, description="Per channel, or one for all."
    )


class Layout(_Fixed):
    """Puts an image's channels first or last."""

    do: Literal["layout"] = Field(description="This transform's name.")
    to: Literal["channels-first", "channels-last"] = Field(description="Where they shall be.")
    given: Literal["channels-first", "channels-last"] | None = Field(
        default=None,
        description="Where they are in an array that was uploaded as numbers. Absent: first; decoded images have them last.",
    )


class Grayscale(_Fixed):
    """Takes an image of three channels to one of one: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""

    do: Literal["grayscale"] = Field(description="This transform's name.")


class Cast(_Fixed):
    """Changes the dtype."""

    do: Literal["cast"] = Field(description="This transform's name.")
    dtype: Literal["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"] = (
        Field(description="A NumPy dtype.")
    )


class Tokenize(Params):
    """Puts the numbers of a text's tokens in its place, as the tokenizer that was uploaded with a model finds them.

    Three arrays of `length` int64 come out: `input_ids`, `attention_mask` (1 for a token, 0 for padding) and `token_type_ids`
    (which of two texts a token is of).
    """

    do: Literal["tokenize"] = Field(description="This transform's name.")
    field: str = Field(min_length=1, max_length=255, description="The text.")
    pair: str | None = Field(
        default=None, min_length=1, max_length=255, description="The second text, for a network of pairs."
    )
    model: str = Field(
        pattern="^mdl_[A-Za-z0-9]{1,36}$",
        description="The id of the model whose `tokenizer.json` is used. The dataset keeps a copy: the model may go.",
    )
    length: Annotated[int, Field(ge=1, le=131072)] = Field(
        description="Tokens of a sample, counting those that the tokenizer adds: more are cut off, fewer are padded."
    )

    @model_validator(mode="after")
    def _two_texts(self) -> Self:
        if self.pair == self.field:
            raise ValueError("`pair` is the same text as `field`")
        return self


class _OfImages(Params):
    """Drawn anew for each sample and epoch, for each image."""

    channels: Literal["first", "last"] = Field(
        default="first", description="Where the network's images have their channels."
    )


class Flip(_OfImages):
    """Mirrors an image left to right at random."""

    do: Literal["flip"] = Field(description="This transform's name.")
    probability: Share = Field(default=0.5, description="Of being mirrored.")


class RandomCrop(_OfImages):
    """Cuts a part of the size of the image out of the image with a border of zeros around it, at a random place."""

    do: Literal["random-crop"] = Field(description="This transform's name.")
    padding: Annotated[int, Field(ge=1, le=1024)] = Field(description="The border, in pixels.")


class RandomResizedCrop(_OfImages):
    """Cuts out a part of a random area and proportion, and scales it to the size of the image.

    Source: Szegedy et al., Going Deeper with Convolutions, 2014 (https://arxiv.org/abs/1409.4842).
    """

    do: Literal["random-resized-crop"] = Field(description="This transform's name.")
    smallest: float = Field(default=0.35, gt=0, le=1, description="The least share of the area that is kept.")
    stretch: float = Field(default=4 / 3, ge=1, le=10, description="The greatest change of the proportions.")


class ColorJitter(_OfImages):
    """Changes brightness, contrast and, of three channels, saturation, each by a random factor of 1 ± its amount.

    Source: Krizhevsky et al., 2012, in the form of Howard, 2013 (https://arxiv.org/abs/1312.5402).
    """

    do: Literal["color-jitter"] = Field(description="This transform's name.")
    brightness: Share = Field(default=0.2, description="The amount.")
    contrast: Share = Field(default=0.2, description="The amount.")
    saturation: Share = Field(default=0.2, description="The amount.")


class Erase(_OfImages):
    """Sets a random rectangle to zero.

    Source: Zhong et al., Random Erasing Data Augmentation, 2017 (https://arxiv.org/abs/1708.04896).
    """

    do: Literal["erase"] = Field(description="This transform's name.")
    probability: Share = Field(default=0.5, description="Of being done.")
    largest: float = Field(default=0.33, gt=0, le=1, description="The greatest share of the area.")


class Noise(Params):
    """Adds normally distributed noise to each array of floating-point numbers."""

    do: Literal["noise"] = Field(description="This transform's name.")
    std: float = Field(default=0.05, gt=0, le=1e6, description="Its standard deviation.")


class Mixup(Params):
    """Blends a sample and its label with another of the dataset, by a share drawn from a Beta distribution.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018 (https://arxiv.org/abs/1710.09412).
    """

    do: Literal["mixup"] = Field(description="This transform's name.")
    alpha: float = Field(default=0.2, gt=0, le=100, description="Both parameters of the Beta distribution.")


Fixed = Annotated[
    Resize | CenterCrop | Pad | Normalize | Layout | Grayscale | Cast | Tokenize, Field(discriminator="do")
]  # the same each time
Random = Annotated[
    Flip | RandomCrop | RandomResizedCrop | ColorJitter | Erase | Noise | Mixup, Field(discriminator="do")
]  # drawn anew each epoch
