"""What a training over frozen towers sees of pictures and texts, each encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, ImageFeatures, embed_images
from cirbench.benchmark.runtime.progress import Reporter

_PICTURES_AT_ONCE = 64
_TEXTS_AT_ONCE = 256


def embed_pictures(
    backbone: Backbone,
    preprocess: str,
    refs: Iterable[ImageRef],
    workers: int,
    reporter: Reporter,
) -> ImageFeatures:
    """Embed each distinct picture once; features stay on the CPU."""
    distinct = list({ref.id: ref for ref in refs}.values())
    with reporter.stage("images", len(distinct)) as stage:
        embedder = Embedder(
            backbone=backbone,
            preprocess=preprocess,
            size=BatchSize(value=_PICTURES_AT_ONCE),
            workers=workers,
            stage=stage,
        )
        return embed_images(embedder, distinct)


def embed_texts(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """T texts → (T, C) float32 on the backbone's device; what exceeds its context is cut."""
    with torch.inference_mode():
        parts = [
            backbone.encode_texts(texts[i : i + _TEXTS_AT_ONCE], truncate=True).cpu()
            for i in range(0, len(texts), _TEXTS_AT_ONCE)
        ]
    return torch.cat(parts).clone().to(backbone.device)
