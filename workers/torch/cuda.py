"""PyTorch on NVIDIA GPUs: whether it can, and in which precision it multiplies."""

import torch

from app.errors import Unavailable


def capability() -> str:
    """The first GPU's compute capability, as in `8.9`.

    Raises:
        Unavailable: there is no GPU that PyTorch can use.
    """
    if not torch.cuda.is_available():
        raise Unavailable(
            "there is no GPU here that PyTorch can use",
            stage="building",
            hint="install a PyTorch for CUDA where workers serve this runtime",
        )
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def precise(*, tf32: bool) -> None:
    """Whether fp32 convolutions and products may use TF32; left to itself PyTorch uses it in convolutions alone."""
    torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
    torch.backends.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"  # type: ignore[attr-defined]
