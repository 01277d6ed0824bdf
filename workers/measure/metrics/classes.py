"""Scores of classes against labels."""

import numpy as np

from app.errors import InvalidDataset, SignatureMismatch


def hits(outputs: np.ndarray, labels: np.ndarray, first: int, k: int) -> np.ndarray:
    """The share of a sample's labels that are among the `k` largest scores, [n].

    `outputs` is [n, C] with labels [n] or [n, 1]; or [n, …, C], or [n, C, …], with a label for each position of the
    other axes: the class axis is the last one if what is left then has the labels' shape, else axis 1. Of equal scores
    the one of the lowest class counts as largest, as `argmax` has it. A sample with NaN among a position's scores
    misses there.

    Raises:
        SignatureMismatch: no axis of the output fits the labels, or the labels are not integers.
        InvalidDataset: a label is no class; the sample is named, counted from `first`.
    """
    if labels.dtype.kind not in "iub" or outputs.dtype.kind in "OUSb":
        raise SignatureMismatch(
            f"labels must be integers and the output scores; they are {labels.dtype} and {outputs.dtype}",
            param="evaluation.output",
            hint="save labels as class numbers counted from 0; name the output that holds a score for each class",
        )
    scores, wanted = _classes_last(outputs, labels)
    classes = scores.shape[-1]
    wrong = (wanted < 0) | (wanted >= classes)
    if wrong.any():
        sample = int(np.argwhere(wrong)[0][0])
        raise InvalidDataset(
            f"the label of sample {first + sample} is {int(wanted[wrong][0])}; the output has classes 0 to {classes - 1}",
            param="labels",
            hint="number the classes from 0, in the order of the model's output",
        )
    own = np.take_along_axis(scores, wanted[..., np.newaxis].astype(np.intp), axis=-1)
    before = np.arange(classes) < wanted[..., np.newaxis]
    rank = np.sum((scores > own) | ((scores == own) & before), axis=-1)
    hit = (rank < k) & ~np.isnan(scores).any(axis=-1)
    return np.asarray(hit.reshape(len(hit), -1).mean(axis=1), dtype=np.float64)


def _classes_last(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n, …, C] and labels [n, …]."""
    if outputs.ndim >= 2:
        if outputs.ndim == labels.ndim and labels.shape[-1] == 1 and outputs.shape[-1] > 1:
            labels = labels[..., 0]
        if outputs.shape[:-1] == labels.shape:
            return outputs.astype(np.float64), labels
        moved = np.moveaxis(outputs, 1, -1)
        if moved.shape[:-1] == labels.shape:
            return moved.astype(np.float64), labels
    raise SignatureMismatch(
        f"the output has shape {list(outputs.shape[1:])} a sample and the labels {list(labels.shape[1:])}: no axis of "
        "the output, last or first, is left for the classes",
        param="evaluation.output",
        hint="evaluate the output that holds scores; labels are class numbers, one a sample or one a position",
    )
