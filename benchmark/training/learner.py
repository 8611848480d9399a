"""Network, optimizer and loss scaler of one training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.backbones.text import PRECISIONS
from cirbench.benchmark.runtime.errors import CheckFailed

Network = TypeVar("Network", bound=nn.Module)
_LEAST_SCALE = 2.0**-14


@dataclass(frozen=True, kw_only=True)
class Learner(Generic[Network]):
    """A network in training."""

    network: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def scale(self, loss: Tensor) -> Tensor:
        """Scale a loss before its backward pass, so that small gradients do not vanish."""
        scaled: Tensor = self.scaler.scale(loss)
        return scaled

    def step(self) -> None:
        """Take a step of the optimizer on the scaled loss's gradients.

        One whose gradient overflows is left out and the scale halved, as torch has it.

        Raises:
            CheckFailed: no scale is left at which the gradient is finite.
        """
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() < _LEAST_SCALE:
            raise CheckFailed(
                "the gradient must be finite, and is not at any loss scale; the last saved state "
                "remains; train with --precision amp_bf16 or fp32"
            )


def make_loss_scaler(backbone: Backbone) -> torch.amp.GradScaler:
    """Make a loss scaler, which does nothing unless the towers compute in float16."""
    float16 = PRECISIONS[backbone.precision].compute is torch.float16
    return torch.amp.GradScaler(torch.device(backbone.device).type, enabled=float16)
