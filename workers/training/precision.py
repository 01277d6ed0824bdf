"""Mixed precision: autocast around forward and loss only, and a scaled loss where gradients would vanish in fp16.

Source: Micikevicius et al., Mixed Precision Training, 2018 (https://arxiv.org/abs/1710.03740);
https://docs.pytorch.org/docs/stable/amp.html.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE = 65536.0  # torch's own


class Precision:
    """What layers compute in while they train; weights, gradients and the optimizer stay in fp32."""

    def __init__(self, name: str, device: torch.device):
        self.name = name
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type, init_scale=FIRST_SCALE, enabled=name == "fp16")
        self._skipped = 0
        self._in_a_row = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """For the block of forward and loss."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=_TYPES[self.name])

    def backward(self, loss: Tensor) -> None:
        """Outside of autocast: each operator goes back in the type that it went forward in."""
        scaled: Tensor = self._scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring the gradients to their own size, before anything looks at them."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Let the optimizer step, unless gradients overflowed in fp16; whether it did."""
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        skipped = bool(self._scaler.get_scale() < before)
        self._skipped += skipped
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        return not skipped

    @property
    def forgives(self) -> bool:
        """Whether a step that is not finite may be the scale's fault, and is made good by a smaller one."""
        return self.name == "fp16"

    @property
    def skipped_in_a_row(self) -> int:
        """Steps without one that was taken."""
        return self._in_a_row

    def facts(self) -> dict[str, Any]:
        """`precision`; for fp16 the last `loss_scale` and the number of `skipped_steps`."""
        if self.name != "fp16":
            return {"precision": self.name}
        return {
            "precision": self.name,
            "loss_scale": self._scaler.get_scale(),
            "skipped_steps": self._skipped,
        }

    def state(self) -> dict[str, Any]:
        """As JSON, for a checkpoint."""
        return {
            "scaler": self._scaler.state_dict(),
            "skipped": self._skipped,
            "in_a_row": self._in_a_row,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        self._skipped, self._in_a_row = state["skipped"], state["in_a_row"]
