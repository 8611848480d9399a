"""Embeddings of pictures, each distinct picture once, decoded in threads while the tower works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import Backbone, FileDecoder, TokenTower
from cirbench.benchmark.api.values import Box, ImageRef, Mode
from cirbench.benchmark.embedding.contents import ContentHashes, fingerprint_pictures
from cirbench.benchmark.embedding.folders import find_open_folders
from cirbench.benchmark.embedding.shard import SHARD_ROWS
from cirbench.benchmark.embedding.share import WHOLE, Share
from cirbench.benchmark.embedding.space import make_image_space
from cirbench.benchmark.embedding.store import Store, make_identity
from cirbench.benchmark.images.preprocess import make_fit, scale_pixels, to_bytes
from cirbench.benchmark.images.reading import (
    EncodedPicture,
    load_encoded,
    prefetch,
    split_into_chunks,
)
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.kept import find_cache_root
from cirbench.benchmark.runtime.progress import Reporter, Stage

T = TypeVar("T")
Way = Callable[[EncodedPicture], Tensor]
"""From a picture's file to one row of a tower's input, before `fill_tower`."""


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """Embeddings of distinct pictures.

    Attributes:
        values: (N, C) float32 on the CPU, not normalised.
        rows: picture id → row.
        sha256: of each picture's file, by row.
        batch_size: the largest that memory allowed.
        passes: how many pictures the tower saw for this; the rest came from a store.
        imported: how many rows another machine made (`bench cache import`).
        references: the queries' pictures, where a protocol prepares them in another way.
    """

    values: Tensor
    rows: Mapping[str, int]
    sha256: Sequence[str]
    batch_size: int
    passes: int
    imported: int = 0
    references: ImageFeatures | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks for a record: how many rows were made on another machine."""
        if not self.imported:
            return ()
        count = len(self.rows) + (len(self.references.rows) if self.references else 0)
        return (
            f"{self.imported:,} of {count:,} embeddings of pictures were made on another "
            f"machine and imported",
        )

    def of(self, refs: Sequence[ImageRef]) -> Tensor:
        """(len(refs), C) float32."""
        return self.values[torch.tensor([self.rows[ref.id] for ref in refs], dtype=torch.long)]

    def of_references(self, refs: Sequence[ImageRef]) -> Tensor:
        """(len(refs), C) float32 of pictures that are asked with."""
        return (self.references or self).of(refs)

    def fingerprint(self, refs: Sequence[ImageRef]) -> str:
        """sha256 over the ids and the contents of these pictures, in their order."""
        return fingerprint_pictures(
            refs, {name: self.sha256[row] for name, row in self.rows.items()}
        )


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What was put into the store.

    Attributes:
        spaces: their keys.
        passes: how many pictures the towers saw for this; the others were there.
    """

    spaces: tuple[str, ...]
    passes: int


@dataclass(kw_only=True)
class BatchSize:
    """A batch size that is halved when memory runs out, and stays halved."""

    value: int


def work_in_batches(
    items: Sequence[T], size: BatchSize, work: Callable[[Sequence[T]], Tensor]
) -> Iterator[Tensor]:
    """Apply `work` to successive slices; one that exceeds memory is halved and tried again.

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


def make_way(backbone: Backbone, preprocess: str, box: Box | None = None) -> Way:
    """Make the way of a picture: the backbone's own, or Pillow and the named preprocessing up to
    (S, S, 3) uint8, a quarter of what the tower takes.

    Args:
        box: as `ImageRef` has it.

    Raises:
        UsageError: no preprocessing has that name, or the backbone decodes its files itself and a
            part of one is asked for.
    """
    if not isinstance(backbone, FileDecoder):
        fit = make_fit(preprocess, backbone.image_spec.size, box)
        return lambda picture: to_bytes(fit(picture.image))
    if box is not None:
        raise UsageError(
            f"{backbone.name} takes whole pictures, got a part of one; choose another backbone for "
            f"this task"
        )
    decode = backbone.decode
    return lambda picture: decode(picture.content)


def fill_tower(backbone: Backbone, preprocess: str, rows: Sequence[Tensor]) -> Tensor:
    """Make of B pictures, each gone its way, what `backbone.encode_images` takes.

    Pixels are scaled on the backbone's device and a batch at a time: in the threads that decode,
    each small operation would wait for the interpreter's lock.
    """
    stacked = torch.stack(list(rows))
    if isinstance(backbone, FileDecoder):
        return stacked
    if torch.device(backbone.device).type == "cuda":
        stacked = stacked.pin_memory()  # from there a copy does not wait for the GPU
    there = stacked.to(backbone.device, non_blocking=True)
    return scale_pixels(there, backbone.image_spec, preprocess)


def read_pixels(
    refs: Sequence[ImageRef], preprocess: str, backbone: Backbone, workers: int
) -> Tensor:
    """Read and preprocess pictures, each distinct one once, for what is read again, not kept.

    Args:
        preprocess: the protocol's name for the way from a picture to the tower's input.
        workers: threads that read and decode.

    Returns:
        (len(refs), …), as the backbone's tower takes them, on its device; at least one picture must
        be asked for.

    Raises:
        UsageError: as `make_way`.
        MissingData, CorruptData: a picture can't be read; the message names it, and its row among
            the distinct ones.
    """
    distinct = {ref.id: ref for ref in refs}
    jobs = (
        partial(load_encoded, ref, make_way(backbone, preprocess, ref.box), row)
        for row, ref in enumerate(distinct.values())
    )
    loaded = prefetch(jobs, workers=workers, ahead=2 * workers)
    row_of = {name: row for name, (row, _) in zip(distinct, loaded, strict=True)}
    return fill_tower(backbone, preprocess, [row_of[ref.id] for ref in refs])


def find_token_tower(backbone: Backbone) -> TokenTower:
    """The backbone as one that has tokens of pictures.

    Raises:
        UsageError: it has none.
    """
    if not isinstance(backbone, TokenTower) or not backbone.vision_width:
        raise UsageError(
            f"{backbone.name} must have a vision transformer with a class token, whose tokens are "
            f"looked at, and has not; choose one such as ViT-L-14/openai"
        )
    return backbone


def read_tokens(
    refs: Sequence[ImageRef], preprocess: str, backbone: Backbone, workers: int
) -> Tensor:
    """Read and encode pictures, each distinct one once, into (len(refs), 1 + P, V) tokens.

    Args:
        preprocess, workers: as `read_pixels`.

    Raises:
        UsageError: the backbone has no tokens of pictures.
        MissingData, CorruptData: as `read_pixels`.
    """
    tower = find_token_tower(backbone)
    distinct = {ref.id: ref for ref in refs}
    pixels = read_pixels(list(distinct.values()), preprocess, backbone, workers)
    rows = {name: row for row, name in enumerate(distinct)}
    return tower.encode_image_tokens(pixels)[[rows[ref.id] for ref in refs]]


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """How pictures become embeddings by one backbone.

    Attributes:
        preprocess: the protocol's name for the way from a picture to the tower's input.
        size: halved where memory runs out, and then for the rest of the run.
        workers: threads that read and decode.
    """

    backbone: Backbone
    preprocess: str
    size: BatchSize
    workers: int
    stage: Stage

    def encode(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """Pictures, each gone its way → (b, C) float32 in batches, on the device, where a GPU may
        still be at work."""

        def work(part: Sequence[Tensor]) -> Tensor:
            return self.backbone.encode_images(fill_tower(self.backbone, self.preprocess, part))

        with torch.inference_mode():
            yield from work_in_batches(rows, self.size, work)


def embed_together(
    embedders: Sequence[Embedder], refs: Sequence[ImageRef], wanted: Sequence[Sequence[bool]]
) -> tuple[list[Tensor], list[str]]:
    """Decode each picture once for all towers; tower i sees those that `wanted[i]` marks.

    The first embedder's batch size, workers and stage are those of the decoding.

    Returns:
        Of each tower (number wanted, C) float32 on the CPU; and the sha256 of each picture's file.

    Raises:
        MissingData, CorruptData: a picture can't be read; the message names it and its row.
    """

    def go_all_ways(ref: ImageRef, row: int) -> Callable[[EncodedPicture], list[Tensor | None]]:
        ways = [
            make_way(e.backbone, e.preprocess, ref.box) if w[row] else None
            for e, w in zip(embedders, wanted, strict=True)
        ]
        return lambda picture: [way(picture) if way else None for way in ways]

    first, hashes = embedders[0], list[str]()
    values: list[list[Tensor]] = [[] for _ in embedders]
    queued: list[list[Tensor]] = [[] for _ in embedders]
    batch = first.size.value
    jobs = (partial(load_encoded, ref, go_all_ways(ref, row), row) for row, ref in enumerate(refs))
    for chunk in split_into_chunks(prefetch(jobs, workers=first.workers, ahead=2 * batch), batch):
        hashes += [sha256 for _, sha256 in chunk]
        for i, embedder in enumerate(embedders):
            own = [pixels[i] for pixels, _ in chunk]
            fresh = list(embedder.encode([picture for picture in own if picture is not None]))
            # fetched one chunk late, so that a GPU has work while it is waited for
            values[i] += [part.cpu() for part in queued[i]]
            queued[i] = fresh
        first.stage.advance(len(chunk))
    features = []
    for embedder, parts, last, marked in zip(embedders, values, queued, wanted, strict=True):
        parts += [part.cpu() for part in last]
        width = 0 if parts else embedder.backbone.embedding_width
        features.append(torch.cat(parts or [torch.empty(0, width)]))
        _check_finite(features[-1], [ref for ref, mark in zip(refs, marked, strict=True) if mark])
    return features, hashes


def embed_images(embedder: Embedder, refs: Sequence[ImageRef]) -> ImageFeatures:
    """Embed each distinct picture of `refs` once, without a store."""
    distinct = list({ref.id: ref for ref in refs}.values())
    [values], hashes = embed_together([embedder], distinct, [[True] * len(distinct)])
    return ImageFeatures(
        values=values,
        rows={ref.id: row for row, ref in enumerate(distinct)},
        sha256=hashes,
        batch_size=embedder.size.value,
        passes=len(distinct),
    )


def embed_through_stores(
    embedders: Sequence[Embedder],
    refs: Sequence[ImageRef],
    stores: Sequence[Store],
    contents: ContentHashes,
    hashing: Stage,
    say: Callable[[str], None] | None = None,
) -> list[ImageFeatures]:
    """Embed pictures by each tower through its store, which keeps what was encoded.

    Raises:
        MissingData, CorruptData: a picture can't be read, or changed meanwhile; a shard is damaged.
    """
    pictures = _identify(refs, contents, hashing, embedders[0].workers)
    passes = fill_stores(embedders, pictures, stores, say)
    names = [name for name, _, _ in pictures]
    rows_of = {ref.id: row for row, (_, ref, _) in enumerate(pictures)}
    return [
        ImageFeatures(
            values=store.read_rows(names),
            rows=rows_of,
            sha256=[sha256 for _, _, sha256 in pictures],
            batch_size=embedder.size.value,
            passes=seen,
            imported=len(store.imported),
        )
        for embedder, store, seen in zip(embedders, stores, passes, strict=True)
    ]


Identified = tuple[str, ImageRef, str]
"""The name of a picture's row in a store, the picture, and the sha256 of its file."""


def _identify(
    refs: Sequence[ImageRef], contents: ContentHashes, hashing: Stage, workers: int
) -> list[Identified]:
    """Hash each distinct picture."""
    distinct = list({ref.id: ref for ref in refs}.values())
    hashes = contents.hash_pictures(distinct, hashing, workers)
    return [
        (make_identity(sha256, ref.box), ref, sha256)
        for sha256, ref in zip(hashes, distinct, strict=True)
    ]


def fill_stores(
    embedders: Sequence[Embedder],
    pictures: Sequence[Identified],
    stores: Sequence[Store],
    say: Callable[[str], None] | None = None,
    share: Share = WHOLE,
) -> list[int]:
    """Embed those of a share of some pictures that a tower's store lacks.

    Work is done in pieces of a shard's rows, cut from the pictures whatever is stored of them, and
    batches begin with the piece: runs that were killed, and shares of one, leave the same bits.

    Returns:
        How many pictures each tower saw.
    """
    known = {name: (ref, sha256) for name, ref, sha256 in pictures}
    pieces = share.choose(list(known), SHARD_ROWS, embedders[0].size.value)
    for store in stores:
        if store.mode is Mode.REFRESH:
            store.forget([name for piece in pieces for name in piece])
    passes, done = [0] * len(stores), 0
    for piece in pieces:
        if not _find_lacked(stores, piece)[0]:
            continue
        with ExitStack() as held:
            for store in sorted(stores, key=lambda store: store.folder):
                held.enter_context(store.reserve(piece, say))
            lacked, wanted = _find_lacked(stores, piece)
            if not lacked:  # another process was first
                continue
            added = _embed_unchanged(embedders, [known[name] for name in lacked], wanted)
            for i, (store, marks, rows) in enumerate(zip(stores, wanted, added, strict=True)):
                own = [name for name, mark in zip(lacked, marks, strict=True) if mark]
                if own:
                    store.add(own, rows)
                passes[i] += len(own)
            done += len(lacked)
    embedders[0].stage.advance(max(0, share.count_own(len(pictures)) - done))
    return passes


def _find_lacked(
    stores: Sequence[Store], names: Sequence[str]
) -> tuple[list[str], list[list[bool]]]:
    """Find the pictures that any store lacks, and for each store which of them it lacks."""
    missing = [set(store.find_missing(names)) for store in stores]
    lacked = [name for name in dict.fromkeys(names) if any(name in own for own in missing)]
    return lacked, [[name in own for name in lacked] for own in missing]


def embed_with(
    embedders: Sequence[Embedder],
    refs: Sequence[ImageRef],
    mode: Mode,
    reporter: Reporter,
) -> list[ImageFeatures]:
    """Embed each distinct picture by each tower, through the store as the mode says."""
    if mode is Mode.OFF:
        return [embed_images(embedder, refs) for embedder in embedders]
    stores, contents = _open_stores(embedders, mode, reporter)
    with reporter.stage("hashing", len(refs)) as hashing:
        return embed_through_stores(embedders, refs, stores, contents, hashing, reporter.say)


def store_share(
    embedders: Sequence[Embedder],
    refs: Sequence[ImageRef],
    mode: Mode,
    reporter: Reporter,
    share: Share,
) -> Stored:
    """Embed a share of distinct pictures by each tower, into the store and no further."""
    stores, contents = _open_stores(embedders, mode, reporter)
    with reporter.stage("hashing", len(refs)) as hashing:
        pictures = _identify(refs, contents, hashing, embedders[0].workers)
    passes = fill_stores(embedders, pictures, stores, reporter.say, share)
    return Stored(spaces=tuple(store.space.key for store in stores), passes=sum(passes))


def _open_stores(
    embedders: Sequence[Embedder], mode: Mode, reporter: Reporter
) -> tuple[list[Store], ContentHashes]:
    root = find_cache_root()
    stores = [Store(root, make_image_space(e.backbone, e.preprocess), mode) for e in embedders]
    for folder in find_open_folders(root):
        reporter.say(
            "every user of this machine can write to the store of embeddings; run chmod "
            f"o-w {folder}"
        )
    return stores, ContentHashes(root=root, read_only=mode is Mode.READ_ONLY)


def _embed_unchanged(
    embedders: Sequence[Embedder],
    pictures: Sequence[tuple[ImageRef, str]],
    wanted: Sequence[Sequence[bool]],
) -> list[Tensor]:
    """Embed pictures, and check that their files are still those that were hashed."""
    values, found = embed_together(embedders, [ref for ref, _ in pictures], wanted)
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
