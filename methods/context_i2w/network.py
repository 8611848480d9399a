"""Context-I2W's network: from a picture's tokens and a text's embedding to one pseudo-word.

Names and order of the parameters are those of the released `state_dict_img2text`. V is the width of
a picture's tokens, W that of a word and of a text's embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from cirbench.benchmark.checkpoints import fill_network
from cirbench.methods.pic2word.method import make_blocks

HEAD_WIDTH = 64
"""Of the attention; the weights do not say it."""


class NormedLinear(nn.Module):
    """A linear layer, each row of whose weights has a length of its own (Salimans and Kingma)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(width, 1))
        self.weight_v = nn.Parameter(torch.empty(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, V) → (…, V)."""
        return linear(x, self.weight_g * self.weight_v / self.weight_v.norm(dim=1, keepdim=True))


class LatentAttention(nn.Module):
    """Latents that look at a picture's tokens and at each other (Perceiver Resampler)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm_media, self.norm_latents = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """(B, P, V) tokens and (B, L, V) latents → (B, L, V)."""
        asking = self.norm_latents(latents)
        seen = torch.cat([self.norm_media(tokens), asking], dim=1)
        queries = self._split_heads(self.to_q(asking)) * HEAD_WIDTH**-0.5
        keys, values = map(self._split_heads, self.to_kv(seen).chunk(2, dim=-1))
        weights = (queries @ keys.transpose(-2, -1)).softmax(dim=-1)
        joined = (weights @ values).transpose(1, 2).flatten(2)
        return self.to_out(joined)  # type: ignore[no-any-return]  # nn.Module is untyped

    @staticmethod
    def _split_heads(x: Tensor) -> Tensor:
        """(B, N, heads · 64) → (B, heads, N, 64)."""
        return x.reshape(*x.shape[:-1], -1, HEAD_WIDTH).transpose(1, 2)


class LatentReader(nn.Module):
    """The visual-text extractor: a few latents that read a picture's tokens, layer by layer."""

    def __init__(self, width: int, inner: int, latents: int, layers: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(latents, width))
        self.layers = nn.ModuleList(
            nn.ModuleList([LatentAttention(width, inner), _make_feed_forward(width)])
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, P, V) tokens → (B, V), the mean of the latents."""
        latents = self.latents.expand(len(tokens), -1, -1)
        layer: Any  # nn.ModuleList is untyped
        for layer in self.layers:
            attend, transform = layer
            latents = attend(tokens, latents) + latents
            latents = transform(latents) + latents
        return self.norm(latents).mean(dim=1)  # type: ignore[no-any-return]  # nn.Module is untyped


def _make_feed_forward(width: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width, bias=False),
        nn.GELU(),
        nn.Linear(4 * width, width, bias=False),
    )


class ContextNetwork(nn.Module):
    """A picture's word in the context of a text.

    Attributes:
        widths: V and W.
    """

    def __init__(
        self, *, vision: int, word: int, middle: int, inner: int, latents: int, layers: int
    ) -> None:
        super().__init__()
        self.widths = (vision, word)
        self.to_c = nn.Linear(word, vision, bias=False)
        self.W_R = NormedLinear(vision)
        self.ln_post, self.ln_post_local = nn.LayerNorm(vision), nn.LayerNorm(vision)
        self.proj, self.proj_local = (nn.Parameter(torch.empty(vision, word)) for _ in range(2))
        self.VT_Extractor = LatentReader(vision, inner, latents, layers)
        self.layers, self.layers_local = (make_blocks([word, middle, middle]) for _ in range(2))
        self.fc_out, self.fc_out_local = nn.Linear(middle, word), nn.Linear(middle, word)
        self.local_gate = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """(B, 1 + P, V) tokens, the class token first, and (B, W) raw texts → (B, W) words."""
        chosen = self.W_R(tokens) * self.to_c(texts).unsqueeze(1)
        whole = self.ln_post(chosen[:, 0]) @ self.proj
        part = self.ln_post_local(self.VT_Extractor(chosen[:, 1:])) @ self.proj_local
        local = self.fc_out_local(self.layers_local(part))
        return self.fc_out(self.layers(whole)) + self.local_gate.tanh() * local  # type: ignore[no-any-return]  # nn.Module is untyped

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> Self:
        """Infer all sizes from the shapes; for use within `loading_network`."""
        vision, word = weights["to_c.weight"].shape
        network = cls(
            vision=vision,
            word=word,
            middle=weights["fc_out.weight"].shape[1],
            inner=weights["VT_Extractor.layers.0.0.to_q.weight"].shape[0],
            latents=weights["VT_Extractor.latents"].shape[0],
            layers=sum(name.endswith(".0.to_q.weight") for name in weights),
        )
        fill_network(network, weights)
        return network
