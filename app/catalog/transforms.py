"""What is done to a sample on its way to a network: declared as data, never code from the user. The work is in `workers/datasets`."""

from typing import Annotated, Literal

from pydantic import Field

from app.catalog.spec import Params

Pixels = Annotated[int, Field(ge=1, le=16384)]


class Resize(Params):
    """Scales an image to a size."""

    do: Literal["resize"] = Field(description="This transform's name.")
    height: Pixels = Field(description="Rows.")
    width: Pixels = Field(description="Columns.")


class Normalize(Params):
    """Takes integers to floats: (value * scale - mean) / std, per channel."""

    do: Literal["normalize"] = Field(description="This transform's name.")
    scale: float = Field(default=1 / 255, description="Before the mean is taken off.")
    mean: list[float] = Field(default=[0.0], description="Per channel, or one for all.")
    std: list[float] = Field(default=[1.0], description="Per channel, or one for all.")


class Flip(Params):
    """Mirrors an image left to right at random."""

    do: Literal["flip"] = Field(description="This transform's name.")
    probability: float = Field(default=0.5, ge=0, le=1, description="Of being mirrored.")


class RandomCrop(Params):
    """Cuts a part of the size of the image out of the image with a border of zeros around it, at a random place."""

    do: Literal["random-crop"] = Field(description="This transform's name.")
    padding: Pixels = Field(description="The border, in pixels.")


class Mixup(Params):
    """Blends a sample and its label with another of the dataset, by a share drawn from a Beta distribution.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018 (https://arxiv.org/abs/1710.09412).
    """

    do: Literal["mixup"] = Field(description="This transform's name.")
    alpha: float = Field(default=0.2, gt=0, description="Both parameters of the Beta distribution.")


Fixed = Annotated[Resize | Normalize, Field(discriminator="do")]  # the same each time
Random = Annotated[Flip | RandomCrop | Mixup, Field(discriminator="do")]  # drawn anew each epoch
