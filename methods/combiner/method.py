"""The Combiner of CLIP4Cir: a supervised network over CLIP's image and text features.

Baldrati, Bertini, Uricchio, Del Bimbo. Conditioned and composed image retrieval combining and
partially fine-tuning CLIP-based features. CVPRW 2022; TOMM 2023 (arXiv 2308.11485). Follows the
released code and checkpoints {"epoch", "Combiner"} of ABaldrati/CLIP4Cir.

With x_i and x_t the raw, un-normalised features of reference and text, d dropout:

    r = [d(ReLU(W_t x_t)), d(ReLU(W_i x_i))]                      text first
    v = W_o d(ReLU(W_c r))        s = sigmoid(w_2 d(ReLU(W_s r)))     (biases left out)
    q = n(v + s x_t + (1 - s) x_i)                                n(x) = x / |x|

The scalar s weights the text. Training (`combiner_training`) is contrastive over a batch's targets
with the constant scale 100.

Known deviations: none in the network. The authors' best weights go with a CLIP that was fine-tuned
first; on another CLIP they are worthless, and no shape tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Checkpoint, Method, Queries
from cirbench.benchmark.checkpoints import (
    describe_other_weights,
    fill_network,
    find_network_weights,
    loading_network,
)
from cirbench.benchmark.runtime.errors import CorruptData

DROPOUT = 0.5
LOGIT_SCALE = 100.0
"""A constant in the released code, no parameter."""


class CombinerNetwork(nn.Module):
    """(B, C) raw image features and (B, C) raw text features → (B, C) unit vectors.

    Names and shapes of the parameters are the released ones; projection width P is 4 C and hidden
    width H is 8 C there.
    """

    def __init__(self, width: int, projection: int | None = None, hidden: int | None = None):
        super().__init__()
        projection, hidden = projection or 4 * width, hidden or 8 * width
        self.width, self.dropout = width, nn.Dropout(DROPOUT)
        self.text_projection_layer = nn.Linear(width, projection)
        self.image_projection_layer = nn.Linear(width, projection)
        self.combiner_layer = nn.Linear(2 * projection, hidden)
        self.output_layer = nn.Linear(hidden, width)
        self.dynamic_scalar = nn.Sequential(
            nn.Linear(2 * projection, hidden),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(hidden, 1),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Compose; the residual is of the raw features, so their norms matter."""
        text = self.dropout(self.text_projection_layer(texts).relu())
        image = self.dropout(self.image_projection_layer(images).relu())
        raw = torch.cat([text, image], dim=-1)  # (B, 2P), text first
        mixed = self.output_layer(self.dropout(self.combiner_layer(raw).relu()))
        share = self.dynamic_scalar(raw)  # (B, 1), of the text
        return normalize(mixed + share * texts + (1 - share) * images, dim=-1)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> CombinerNetwork:
        """Infer the widths from the shapes; for use within `loading_network`."""
        projection, width = weights["text_projection_layer.weight"].shape
        hidden = weights["combiner_layer.weight"].shape[0]
        with torch.random.fork_rng(devices=[]):
            network = cls(width, projection, hidden)
        fill_network(network, weights)
        return network


class Combiner(Method):
    """The trained mixture of reference and text."""

    name: ClassVar[str] = "combiner"
    zero_shot: ClassVar[bool] = False
    needs_checkpoint: ClassVar[bool] = True

    def __init__(self, network: CombinerNetwork, trained_on: str) -> None:
        self.network = network.eval()
        self.trained_on = trained_on

    @classmethod
    def build(cls, *, backbone: Backbone, checkpoint: Checkpoint | None) -> Self:
        if checkpoint is None:
            raise CorruptData("combiner needs a checkpoint")
        with loading_network(checkpoint, "Combiner"):
            network = CombinerNetwork.from_weights(find_network_weights(checkpoint, "Combiner"))
        if network.width != backbone.embedding_width:
            raise CorruptData(
                f"{checkpoint.path} combines features of width {network.width}; {backbone.name} "
                f"has {backbone.embedding_width}: it was trained for another backbone"
            )
        trained_on = checkpoint.provenance.get("trained_on", "unstated triplets")
        method = cls(network.to(backbone.device), trained_on)
        method.remarks = describe_other_weights(checkpoint, backbone)
        return method

    def compose(self, queries: Queries) -> Tensor:
        family = "caption" if "caption" in queries.protocol.templates else "text"
        composed: Tensor = self.network(queries.reference_features, queries.text_features(family))
        return composed


def contrastive_loss(composed: Tensor, targets: Tensor) -> Tensor:
    """(B, C) unit queries against the (B, C) features of a batch's targets, in one direction."""
    logits = LOGIT_SCALE * composed @ normalize(targets, dim=-1).T
    return cross_entropy(logits, torch.arange(len(logits), device=logits.device))
