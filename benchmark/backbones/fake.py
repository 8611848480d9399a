"""A backbone without weights to load: deterministic random projections, for tests.

Alike pictures get alike embeddings and a prompt depends on its pseudo-word, so the whole pipeline
runs on it in milliseconds; its numbers mean nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.backbones.base import TorchBackbone

_SIZE, _WIDTH, _TOKEN_WIDTH, _CONTEXT, _VOCABULARY = 16, 32, 24, 77, 4096
_PAD, _START, _PLACEHOLDER, _FIRST_WORD, _END = 0, 1, 2, 3, _VOCABULARY - 1


class _RandomTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.pixels = nn.Linear(3 * _SIZE * _SIZE, _WIDTH)
        self.token_embedding = nn.Embedding(_VOCABULARY, _TOKEN_WIDTH)
        self.text = nn.Linear(_TOKEN_WIDTH, _WIDTH)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.pixels(pixels.flatten(1))  # type: ignore[no-any-return]  # nn.Linear returns Any

    def encode_text(self, ids: Tensor) -> Tensor:
        words = ((ids != _PAD) & (ids != _START) & (ids != _END)).unsqueeze(-1)
        mean = (self.token_embedding(ids) * words).sum(1) / words.sum(1).clamp(min=1)
        return self.text(mean)  # type: ignore[no-any-return]  # nn.Linear returns Any


def _tokenize(texts: Sequence[str]) -> list[list[int]]:
    return [[_START, *map(_token, text.lower().split()), _END] for text in texts]


def _token(word: str) -> int:
    if word == "*":
        return _PLACEHOLDER
    return _FIRST_WORD + zlib.crc32(word.encode()) % (_END - _FIRST_WORD)


def load(name: str, *, device: str, precision: str) -> TorchBackbone:
    """Always the same towers."""
    model = _RandomTowers()
    return TorchBackbone(
        name=name,
        model=model,
        image_tower=model.encode_image,
        text_tower=model.encode_text,
        token_embedding=model.token_embedding,
        tokenize=_tokenize,
        tokenizer_content="words by their crc32",
        vocabulary=_VOCABULARY,
        pad_id=_PAD,
        context_length=_CONTEXT,
        embedding_width=_WIDTH,
        image_spec=ImageSpec(size=_SIZE),
        logit_scale=100.0,
        device=torch.device(device),
        precision=precision,
    )
