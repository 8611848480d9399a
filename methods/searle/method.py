"""SEARLE: Zero-Shot Composed Image Retrieval with Textual Inversion.

Baldrati, Agnolucci, Bertini, Del Bimbo. ICCV 2023, arXiv 2303.15247. Inference follows the released
code (miccunifi/SEARLE) and its checkpoints {"epoch", "Phi"}.

A network phi, distilled from optimised pseudo-words, turns the raw, un-normalised embedding v of a
picture into one pseudo-word:

    q = n(T("a photo of * that {caption}" with * := phi(v)))        n(x) = x / |x|

Where a query has two captions (Fashion-IQ) both orders are composed, and q is the normalised mean
of the two unit vectors. Where a protocol has no such prompt, as where nothing is said of a picture
but its domain, q has that of the other methods with a pseudo-word. The placeholder is "*" here and
"$" there: its embedding is replaced, so the sign does not matter.

Known deviations: none in inference; for training, see `distillation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from torch import Tensor, nn

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Checkpoint, Method, Queries
from cirbench.benchmark.checkpoints import (
    check_widths,
    fill_network,
    find_network_weights,
    loading_network,
)
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.methods.prompts import compose_prompts

DROPOUT = 0.5


class Phi(nn.Sequential):
    """Linear, GELU, dropout twice, and a linear output: (B, C) → (B, W), hidden width H.

    Its parameters are the released `layers.N` by N.
    """

    def __init__(self, embedding_width: int, hidden: int, token_width: int) -> None:
        self.widths = (embedding_width, token_width)
        super().__init__(
            nn.Linear(embedding_width, hidden),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(hidden, token_width),
        )

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> Self:
        """Infer the widths from the shapes; for use within `loading_network`."""
        weights = {name.removeprefix("layers."): tensor for name, tensor in weights.items()}
        hidden, embedding_width = weights["0.weight"].shape
        network = cls(embedding_width, hidden, weights["6.weight"].shape[0])
        fill_network(network, weights)
        return network


class Searle(Method):
    """A caption appended to the reference picture's pseudo-word."""

    name: ClassVar[str] = "searle"
    needs_checkpoint: ClassVar[bool] = True
    released_training: ClassVar[str] = "ImageNet-1k test"
    """What the authors' checkpoints saw, unlabelled."""

    def __init__(self, phi: Phi, trained_on: str) -> None:
        self.phi = phi.eval()
        self.trained_on = trained_on

    @classmethod
    def build(cls, *, backbone: Backbone, checkpoint: Checkpoint | None) -> Self:
        if checkpoint is None:
            raise CorruptData(f"{cls.name} needs a checkpoint")
        with loading_network(checkpoint, "phi"):
            phi = Phi.from_weights(find_network_weights(checkpoint, "Phi"))
        check_widths(checkpoint, phi.widths, backbone)
        trained_on = checkpoint.provenance.get("trained_on", cls.released_training)
        return cls(phi.to(backbone.device), trained_on)

    def compose(self, queries: Queries) -> Tensor:
        words = self.phi(queries.reference_features)
        return compose_prompts(queries, words, "that", "pseudo-word")
