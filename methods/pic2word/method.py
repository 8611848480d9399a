"""Pic2Word: Mapping Pictures to Words for Zero-shot Composed Image Retrieval.

Saito, Sohn, Zhang, Li, Lee, Saenko, Pfister. CVPR 2023, arXiv 2302.03084. Follows the released
code (google-research/composed_image_retrieval, May 2023).

A mapping network f turns the raw, un-normalised embedding v of a picture into one pseudo-word,
which replaces the placeholder in a prompt:

    q = n(T("a cartoon of *" with * := f(v)))        n(x) = x / |x|

and is trained on pictures alone, with T and the image tower V frozen: in a batch of pictures, the
sentence "a photo of *" with * := f(V(x)) shall be nearest to its own picture x, and the reverse,

    L = (CE(s · n(V) n(T)^t) + CE(s · n(T) n(V)^t)) / 2        s: CLIP's own temperature, frozen

Known deviations: none in the mapping network and the loss. The released evaluation takes the
placeholder's position from the first row of a batch; here each row has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Checkpoint, Method, Queries
from cirbench.benchmark.checkpoints import (
    check_widths,
    describe_other_weights,
    fill_network,
    find_network_weights,
    loading_network,
    strip_wrappers,
)
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.methods.prompts import compose_prompts

DROPOUT = 0.1
"""Always 0.1 in the released code, whose --droprate is never passed on."""


def make_blocks(widths: Sequence[int], dropout: float = DROPOUT) -> nn.Sequential:
    """Blocks of Linear, Dropout, ReLU from each width to the next."""
    return nn.Sequential(
        *(
            nn.Sequential(nn.Linear(before, after), nn.Dropout(dropout), nn.ReLU())
            for before, after in pairwise(widths)
        )
    )


class MappingNetwork(nn.Module):
    """`layers` blocks of Linear, Dropout, ReLU, and a linear output: (B, C) → (B, W).

    Names and order of the parameters are those of the released `IM2TEXT`.
    """

    def __init__(
        self,
        embedding_width: int,
        token_width: int,
        middle: int = 512,
        layers: int = 2,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__()
        self.widths = (embedding_width, token_width)
        self.dropout, self.block_widths = dropout, [middle] * layers
        self.fc_out = nn.Linear(middle, token_width)
        self.layers = make_blocks([embedding_width, *[middle] * layers], dropout)

    def forward(self, embeddings: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """(B, C) raw image embeddings → (B, W) pseudo-words.

        Args:
            masks: what the blocks' activations are multiplied by, instead of dropout's own draw.
        """
        if masks is None:
            return self.fc_out(self.layers(embeddings))  # type: ignore[no-any-return]  # nn.Module is untyped
        hidden = embeddings
        for block, mask in zip(self.layers, masks, strict=True):
            linear: nn.Module = block[0]  # type: ignore[index]  # nn.Sequential is untyped
            hidden = (linear(hidden) * mask).relu()
        return self.fc_out(hidden)  # type: ignore[no-any-return]  # the same

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> MappingNetwork:
        """Infer widths and depth from the shapes; for use within `loading_network`."""
        layers = sum(name.startswith("layers.") and name.endswith("weight") for name in weights)
        middle, embedding_width = weights["layers.0.0.weight"].shape
        token_width = weights["fc_out.weight"].shape[0]
        with torch.random.fork_rng(devices=[]):
            network = cls(embedding_width, token_width, middle, layers)
        fill_network(network, weights)
        return network


def describe_carried_clip(checkpoint: Checkpoint, backbone: Backbone) -> tuple[str, ...]:
    """Remark on the CLIP that a released checkpoint carries besides the mapper.

    It was frozen in training, so it should be the backbone; the backbone is what is used.
    """
    carried = checkpoint.content.get("state_dict")
    if not carried:
        return ()
    ours = backbone.state_dict()
    with loading_network(checkpoint, "CLIP under state_dict"):
        theirs = strip_wrappers(carried)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return (
            f"the CLIP in {checkpoint.path.name} can't be compared with {backbone.name}, which "
            f"names its weights otherwise",
        )
    other = [name for name in shared if not _is_equal(ours[name], theirs[name])]
    if not other:
        return ()
    return (
        f"the CLIP in {checkpoint.path.name} is not {backbone.name}: {len(other)} of {len(shared)} "
        f"weights differ, the first is {other[0]}",
    )


def _is_equal(ours: Tensor, theirs: Tensor) -> bool:
    """Equal in our precision: weights published in half precision are stored in single, too."""
    return ours.shape == theirs.shape and torch.equal(ours.cpu(), theirs.to(ours.dtype).cpu())


RELEASED_KEY = "state_dict_img2text"
"""The mapping network's in the authors' file, beside "state_dict", which is CLIP's."""


class Pic2Word(Method):
    """A prompt whose placeholder is the reference picture's pseudo-word."""

    name: ClassVar[str] = "pic2word"
    needs_checkpoint: ClassVar[bool] = True

    def __init__(self, mapper: MappingNetwork, trained_on: str) -> None:
        self.mapper = mapper.eval()
        self.trained_on = trained_on

    @classmethod
    def build(cls, *, backbone: Backbone, checkpoint: Checkpoint | None) -> Self:
        if checkpoint is None:
            raise CorruptData("pic2word needs a checkpoint")
        with loading_network(checkpoint, "Pic2Word mapping network"):
            mapper = MappingNetwork.from_weights(find_network_weights(checkpoint, RELEASED_KEY))
        check_widths(checkpoint, mapper.widths, backbone)
        trained_on = checkpoint.provenance.get("trained_on", "unstated images")
        method = cls(mapper.to(backbone.device), trained_on)
        method.remarks = (
            *describe_carried_clip(checkpoint, backbone),
            *describe_other_weights(checkpoint, backbone),
        )
        return method

    def compose(self, queries: Queries) -> Tensor:
        words = self.mapper(queries.reference_features)
        return compose_prompts(queries, words, "pseudo-word")


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """The symmetric loss over (B, C) image and text embeddings, pair i with pair i."""
    logits = logit_scale * normalize(images, dim=-1) @ normalize(texts, dim=-1).T
    target = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
