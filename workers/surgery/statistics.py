"""The running statistics of batch norms, estimated anew where the values that reach them are no longer those of the training.

Removing channels changes the means and variances of all that is computed behind them, and a batch norm that scales by the old ones
costs most of the accuracy that is lost (Li et al., EagleEye, 2020, section 3.3, https://arxiv.org/abs/2007.02491).
"""

import copy

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from app.errors import InvalidDataset
from workers.context import PassContext
from workers.surgery.channels import STAGE
from workers.surgery.drawing import drawn
from workers.torch.model import TorchModel
from workers.training.rebatch import rebatched
from workers.training.task import device_of

BATCH = 64  # the variance between batches is lost: of few samples it is much


@torch.no_grad()
def recalibrate(model: TorchModel, ctx: PassContext, samples: int) -> list[str]:
    """Give each batch norm the mean of the statistics of batches of `train`, at most `samples` samples. The norms' names.

    Raises:
        InvalidDataset, SignatureMismatch, InvalidModel: see `drawn` and `rebatched`; a sample holds NaN or infinity.
    """
    names = [name for name, layer in model.module.named_modules() if _counts(layer)]
    if not names or ctx.samples["train"].count < 2:
        return []
    device = device_of(ctx.device)
    twin = rebatched(TorchModel(copy.deepcopy(model.module), model.inputs, model.outputs))
    norms = {name: twin.module.get_submodule(name) for name in names}
    twin.module.to(device)
    for norm in norms.values():
        assert isinstance(norm, _BatchNorm)
        norm.reset_running_stats()
        norm.momentum = None  # each batch counts the same
        norm.train()
    for batch in drawn(twin.inputs, ctx, BATCH, samples, device, "estimating statistics of batch norms anew"):
        twin.module(*batch.inputs)
    for name, norm in norms.items():
        for key in ("running_mean", "running_var"):
            found = getattr(norm, key)
            if not bool(torch.isfinite(found).all()):
                raise InvalidDataset(
                    f"the batch norm {name} gets NaN or infinity on the training data",
                    stage=STAGE,
                    node=name,
                    param="inputs.train",
                    hint="remove samples with NaN or infinity, or look for a fault in their preprocessing",
                )
            getattr(model.module.get_submodule(name), key).copy_(found)
    return names


def _counts(layer: torch.nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and layer.running_mean is not None
