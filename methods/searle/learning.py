"""How SEARLE's network learns, in LinCIR too: the optimizer of both papers, and one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.runtime.errors import CheckFailed
from cirbench.benchmark.runtime.torch_state import seeded
from cirbench.benchmark.training.learner import Learner, make_loss_scaler
from cirbench.methods.searle.method import Phi
from cirbench.methods.searle.recipe import PhiRecipe


def make_learner(backbone: Backbone, recipe: PhiRecipe) -> Learner[Phi]:
    """Make network and optimizer as they are before the first step."""
    width = backbone.embedding_width
    with seeded(recipe.seed):
        phi = Phi(width, recipe.hidden or 4 * width, backbone.token_width).to(backbone.device)
    optimizer = torch.optim.AdamW(
        phi.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    return Learner(network=phi, optimizer=optimizer, scaler=make_loss_scaler(backbone))


def take_step(learner: Learner[Any], loss: Tensor, when: str) -> float:
    """Update what is learned by the gradient of a loss, and give the loss.

    Args:
        when: of which step, for a message.

    Raises:
        CheckFailed: the loss is not finite.
    """
    if not loss.isfinite():
        raise CheckFailed(
            f"the loss must be finite, got {loss.item()} at {when}; --resume continues from the "
            "last saved state; or try a lower learning rate"
        )
    learner.optimizer.zero_grad()
    learner.scale(loss).backward()  # type: ignore[no-untyped-call]  # untyped in torch
    learner.step()
    return float(loss.item())
