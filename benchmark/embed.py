"""Pictures → embeddings, each distinct picture once: read, decode and preprocess in threads while
the tower works."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from cirbench.benchmark.errors import CorruptData
from cirbench.benchmark.images import chunks, load_picture, prefetched
from cirbench.benchmark.interfaces import Backbone, ImageRef
from cirbench.benchmark.preprocess import Transform, stretched
from cirbench.benchmark.progress import Stage

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """Embeddings of distinct pictures.

    Attributes:
        values: (N, C) float32 on the CPU, not normalised.
        rows: picture id → row.
        sha256: of each picture's file, by row.
        batch_size: the largest that memory allowed.
    """

    values: Tensor
    rows: Mapping[str, int]
    sha256: Sequence[str]
    batch_size: int

    def of(self, refs: Sequence[ImageRef]) -> Tensor:
        """(len(refs), C) float32."""
        return self.values[torch.tensor([self.rows[ref.id] for ref in refs], dtype=torch.long)]

    def fingerprint(self, refs: Sequence[ImageRef]) -> str:
        """sha256 over the ids and the contents of these pictures, in their order."""
        digest = hashlib.sha256()
        for ref in refs:
            digest.update(f"{ref.id}|{self.sha256[self.rows[ref.id]]}\n".encode())
        return digest.hexdigest()


@dataclass(kw_only=True)
class BatchSize:
    """A batch size that is halved when memory runs out, and stays halved."""

    value: int


def in_batches(
    items: Sequence[T], size: BatchSize, work: Callable[[Sequence[T]], Tensor]
) -> Iterator[Tensor]:
    """`work` on successive slices; where memory runs out, the slice is halved and tried again.

    Raises:
        torch.OutOfMemoryError, MemoryError: even one item is too much.
    """
    start = 0
    while start < len(items):
        chunk = items[start : start + size.value]
        try:
            result = work(chunk)
        except (torch.OutOfMemoryError, MemoryError):
            if size.value == 1:
                raise
            size.value //= 2
            continue
        yield result
        start += len(chunk)


def embed_images(
    backbone: Backbone,
    refs: Sequence[ImageRef],
    transform: Transform,
    *,
    batch_size: int,
    workers: int,
    stage: Stage,
) -> ImageFeatures:
    """Embeds each distinct picture of `refs` once.

    Raises:
        MissingData, CorruptData: a picture can't be read; the message names it and its row.
    """
    distinct = list({ref.id: ref for ref in refs}.values())
    size = BatchSize(value=batch_size)
    values: list[Tensor] = []
    hashes: list[str] = []

    def encode(chunk: Sequence[Tensor]) -> Tensor:
        return backbone.encode_images(torch.stack(list(chunk))).cpu()

    def prepare(ref: ImageRef) -> Transform:
        if ref.box is None:
            return transform
        return partial(stretched, box=ref.box, spec=backbone.image_spec)

    jobs = (partial(load_picture, ref, prepare(ref), row) for row, ref in enumerate(distinct))
    for chunk in chunks(prefetched(jobs, workers=workers, ahead=2 * batch_size), batch_size):
        pixels = [picture for picture, _ in chunk]
        hashes += [sha256 for _, sha256 in chunk]
        with torch.inference_mode():
            values += in_batches(pixels, size, encode)
        stage.advance(len(chunk))
    features = torch.cat(values)
    _check_finite(features, distinct)
    rows = {ref.id: row for row, ref in enumerate(distinct)}
    return ImageFeatures(values=features, rows=rows, sha256=hashes, batch_size=size.value)


def _check_finite(features: Tensor, refs: Sequence[ImageRef]) -> None:
    bad = (~features.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise CorruptData(
            f"the embedding of picture {refs[bad[0]].id} is not finite ({len(bad)} such); use "
            f"--precision fp32, or check the backbone's weights"
        )
