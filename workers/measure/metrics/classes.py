"""Which axis of an output counts classes, and the ranks of the labelled ones."""

import numpy as np

from app.errors import InvalidDataset, SignatureMismatch


def label_ranks(output: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each label, how many classes score higher: shape of `labels`. Equal scores count for the lower class number.

    `output` has labels' shape and one axis more: the last one, or else the second ([samples, classes, …]).

    Raises:
        SignatureMismatch: no axis fits.
        InvalidDataset: a label is no class; the sample is named.
    """
    labels = labels.squeeze(-1) if labels.ndim == output.ndim and labels.shape[-1] == 1 else labels
    if output.shape[:-1] == labels.shape:
        scores = output
    elif output.ndim > 2 and output.shape[:1] + output.shape[2:] == labels.shape:
        scores = np.moveaxis(output, 1, -1)
    else:
        raise SignatureMismatch(
            f"labels of shape {list(labels.shape)} do not fit an output of shape {list(output.shape)}",
            param="evaluation.output",
            hint="name the output that holds class scores; labels are class numbers, one a sample",
        )
    if labels.dtype.kind not in "iu":
        raise SignatureMismatch(f"labels are {labels.dtype}, not class numbers", param="evaluation.dataset")
    wrong = (labels < 0) | (labels >= scores.shape[-1])
    if wrong.any():
        sample = int(np.argwhere(wrong)[0][0])
        raise InvalidDataset(
            f"the label {labels[wrong].flat[0]} is none of {scores.shape[-1]} classes, near sample {sample} of a batch",
            param="evaluation.dataset",
        )
    wide = np.nan_to_num(scores.astype(np.float64), nan=-np.inf)
    own = np.take_along_axis(wide, labels[..., np.newaxis].astype(np.int64), axis=-1)
    lower = np.arange(scores.shape[-1]) < labels[..., np.newaxis]
    ranks = np.sum((wide > own) | ((wide == own) & lower), axis=-1)
    return np.where(np.isneginf(own[..., 0]), scores.shape[-1], ranks)


def per_sample(hits: np.ndarray) -> np.ndarray:
    """The share of hits of each sample: shape [samples]."""
    return hits.reshape(len(hits), -1).mean(axis=1, dtype=np.float64)
