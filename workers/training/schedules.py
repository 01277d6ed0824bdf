"""The learning rate of each step.

Sources: Goyal et al., Accurate, Large Minibatch SGD, 2017, 2.2 (https://arxiv.org/abs/1706.02677) for the warm-up; Loshchilov
and Hutter, SGDR, 2017 (https://arxiv.org/abs/1608.03983) for the cosine.
"""

import math

from app.catalog.pass_params.training import TrainingParams


def rate(params: TrainingParams, step: int, steps: int) -> float:
    """The learning rate of step `step`, counted from 0, of `steps` in all.

    It rises in a line to the highest one in the first `warmup` share, then stays or goes down to 0 as half a cosine.
    """
    rising = round(params.warmup * steps)
    if step < rising:
        return params.learning_rate * (step + 1) / rising
    if params.schedule == "constant":
        return params.learning_rate
    done = (step - rising) / max(1, steps - rising)
    return params.learning_rate * (1 + math.cos(math.pi * done)) / 2
