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

from cirbench.benchmark.contents import Contents
from cirbench.benchmark.errors import CorruptData
from cirbench.benchmark.images import chunks, load_picture, prefetched
from cirbench.benchmark.interfaces import Backbone, ImageRef
from cirbench.benchmark.preprocess import Transform, stretched
from cirbench.benchmark.progress import Reporter, Stage
from cirbench.benchmark.store import SHARD_ROWS, Mode, Space, Store, default_root, identity

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """Embeddings of distinct pictures.

    Attributes:
        values: (N, C) float32 on the CPU, not normalised.
        rows: picture id → row.
        sha256: of each picture's file, by row.
        batch_size: the largest that memory allowed.
        passes: how many pictures the tower saw for this; the rest came from a store.
    """

    values: Tensor
    rows: Mapping[str, int]
    sha256: Sequence[str]
    batch_size: int
    passes: int

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


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """How pictures become embeddings in one run.

    Attributes:
        size: halved where memory runs out, and then for the rest of the run.
        workers: threads that read and decode.
    """

    backbone: Backbone
    transform: Transform
    size: BatchSize
    workers: int
    stage: Stage

    def embed(self, refs: Sequence[ImageRef]) -> tuple[Tensor, list[str]]:
        """(len(refs), C) float32 on the CPU, and the sha256 of each picture's file.

        Raises:
            MissingData, CorruptData: a picture can't be read; the message names it and its row.
        """
        values: list[Tensor] = []
        hashes: list[str] = []
        batch = self.size.value
        jobs = (
            partial(load_picture, ref, self._transform_of(ref), row) for row, ref in enumerate(refs)
        )
        for chunk in chunks(prefetched(jobs, workers=self.workers, ahead=2 * batch), batch):
            hashes += [sha256 for _, sha256 in chunk]
            with torch.inference_mode():
                values += in_batches([picture for picture, _ in chunk], self.size, self._encode)
            self.stage.advance(len(chunk))
        features = torch.cat(values)
        _check_finite(features, refs)
        return features, hashes

    def _transform_of(self, ref: ImageRef) -> Transform:
        if ref.box is None:
            return self.transform
        return partial(stretched, box=ref.box, spec=self.backbone.image_spec)

    def _encode(self, pixels: Sequence[Tensor]) -> Tensor:
        return self.backbone.encode_images(torch.stack(list(pixels))).cpu()


def embed_images(embedder: Embedder, refs: Sequence[ImageRef]) -> ImageFeatures:
    """Embeds each distinct picture of `refs` once, without a store."""
    distinct = list({ref.id: ref for ref in refs}.values())
    values, hashes = embedder.embed(distinct)
    return ImageFeatures(
        values=values, rows={ref.id: row for row, ref in enumerate(distinct)}, sha256=hashes,
        batch_size=embedder.size.value, passes=len(distinct),
    )  # fmt: skip


def stored_images(
    embedder: Embedder, refs: Sequence[ImageRef], store: Store, contents: Contents, hashing: Stage
) -> ImageFeatures:
    """As `embed_images`, but what the store has is not encoded again, and what it lacks is added.

    Work is done in whole shards, whose batches begin with the shard: a run that was killed and one
    that was not leave the same bytes.

    Raises:
        MissingData, CorruptData: a picture can't be read, or changed meanwhile; a shard is damaged.
    """
    distinct = list({ref.id: ref for ref in refs}.values())
    hashes = contents.sha256(distinct, hashing, embedder.workers)
    names = [identity(sha256, ref.box) for sha256, ref in zip(hashes, distinct, strict=True)]
    pictures = dict(zip(names, zip(distinct, hashes, strict=True), strict=True))
    if store.mode is Mode.REFRESH:
        store.forget(names)
    passes = 0
    while missing := store.missing(names):
        shard = missing[:SHARD_ROWS]
        with store.working_on(shard):
            lacking = store.missing(shard)
            if lacking:
                store.add(lacking, _unchanged(embedder, [pictures[name] for name in lacking]))
                passes += len(lacking)
    embedder.stage.advance(len(distinct) - passes)
    return ImageFeatures(
        values=store.rows(names), rows={ref.id: row for row, ref in enumerate(distinct)},
        sha256=hashes, batch_size=embedder.size.value, passes=passes,
    )  # fmt: skip


def embed_with(
    embedder: Embedder, refs: Sequence[ImageRef], space: Space, mode: Mode, reporter: Reporter
) -> ImageFeatures:
    """Embeds each distinct picture, through the store as the mode says."""
    if mode is Mode.OFF:
        return embed_images(embedder, refs)
    root = default_root()
    contents = Contents(root=root, read_only=mode is Mode.READ_ONLY)
    with reporter.stage("hashing", len(refs)) as hashing:
        return stored_images(embedder, refs, Store(root, space, mode), contents, hashing)


def _unchanged(embedder: Embedder, pictures: Sequence[tuple[ImageRef, str]]) -> Tensor:
    """The embeddings of pictures whose files are still those that were hashed."""
    values, found = embedder.embed([ref for ref, _ in pictures])
    for (ref, sha256), now in zip(pictures, found, strict=True):
        if now != sha256:
            raise CorruptData(f"picture {ref.id} changed while it was read; run again")
    return values


def _check_finite(features: Tensor, refs: Sequence[ImageRef]) -> None:
    bad = (~features.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise CorruptData(
            f"the embedding of picture {refs[bad[0]].id} is not finite ({len(bad)} such); use "
            f"--precision fp32, or check the backbone's weights"
        )
