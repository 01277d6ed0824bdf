"""Parameters of the pass `finetune`."""

from typing import Literal

from pydantic import Field

from app.catalog.pass_params.training import TrainingParams


class FinetuneParams(TrainingParams):
    """Trains the network on labelled data: to win back what pruning or another pass cost, or to fit it to data of one's own.

    All weights are trained, in fp32 or mixed precision; layers train as they did in PyTorch (batch norms take statistics, dropout
    drops) where the model still has them: exporters to ONNX leave dropout out and mostly fold batch norms. With `validation`
    data the weights of the best epoch are left, or those that it began with where no epoch was better; without, the last ones.

    Source: Goyal et al., Accurate, Large Minibatch SGD, 2017 (https://arxiv.org/abs/1706.02677); Loshchilov and Hutter,
    Decoupled Weight Decay Regularization, 2019 (https://arxiv.org/abs/1711.05101).
    """

    loss: Literal["auto", "cross-entropy", "binary-cross-entropy", "mse", "l1", "smooth-l1"] = Field(
        default="auto",
        description="What is made smaller. `auto`: cross-entropy where labels are integers, binary cross-entropy where they are "
        "truth values (or integers, one for each number of the output), the mean squared error where they are other numbers.",
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="The share of each label that is spread evenly over all classes, in both cross-entropies.",
    )
