"""A published classifier of handwritten digits, MNIST whose test half it has not seen, and digits that need no fetching.

The network: ccexam 1.0.0 (https://github.com/FYS-8805-Collaborative-Coding/Collaborative-Coding-Exam), MIT licence, whose model card
says 99.04% recall. The data: LeCun, Cortes and Burges, MNIST, 1998.
"""

from importlib.resources import files

import numpy as np
import torch
from torch import nn

from tests.accuracy.images import SIDE, Split, load
from tests.accuracy.sources import DIGITS, fetched

MEAN, DEVIATION = 0.1307, 0.3081  # what the network was trained with: `ccexam.constants`


def published() -> nn.Module:
    """The network with its published weights, in evaluation mode: images [n, 1, 28, 28] to logits [n, 10]."""
    from ccexam.models import MNISTNet

    with (files("ccexam") / "weights" / "mnist.pth").open("rb") as file:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    net = MNISTNet(SIDE)
    net.load_state_dict(weights)
    return net.eval()


def data() -> Split:
    """MNIST, normalized as the network takes it.

    Raises:
        NotFetched: it is not to be had here.
    """
    return load(fetched(DIGITS), MEAN, DEVIATION)


def scanned() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits of 8×8 pixels in MNIST's form: enlarged to 20×20, in the middle of 28×28; and their classes.

    Other hands, another scanner: the network names four of five.
    """
    from sklearn.datasets import load_digits

    held = load_digits()
    small = torch.from_numpy((held.images[:, None] / 16).astype(np.float32))
    large = nn.functional.interpolate(small, size=20, mode="bicubic").clamp(0, 1)
    images = (nn.functional.pad(large, (4, 4, 4, 4)) - MEAN) / DEVIATION
    return images.numpy(), held.target.astype(np.int64)
