"""Pictures → embeddings, each distinct picture once: read, decode and preprocess in threads while
the tower works."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cirbench.benchmark.errors import CorruptData, MissingData
from cirbench.benchmark.interfaces import Backbone, ImageRef
from cirbench.benchmark.preprocess import Transform
from cirbench.benchmark.progress import Stage


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
    halvings: int = field(default=0)

    def halve(self) -> None:
        self.value = max(1, self.value // 2)
        self.halvings += 1


def in_batches[T](
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
            size.halve()
            continue
        yield result
        start += len(chunk)


def load_picture(ref: ImageRef, transform: Transform) -> tuple[Tensor, str]:
    """The preprocessed picture (3, S, S) float32, and the sha256 of its file.

    Raises:
        MissingData: its file is gone.
        CorruptData: its file is no picture, or cut short.
    """
    try:
        content = ref.read()
    except FileNotFoundError as error:
        raise MissingData(f"picture {ref.id}: no file at {error.filename}") from error
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            pixels = transform(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError,
            Image.DecompressionBombError) as error:  # fmt: skip
        raise CorruptData(
            f"picture {ref.id} can't be decoded ({error}, {len(content)} bytes); fetch it again"
        ) from error
    return pixels, hashlib.sha256(content).hexdigest()


def _prefetched(
    refs: Sequence[ImageRef], transform: Transform, *, workers: int, ahead: int
) -> Iterator[tuple[Tensor, str]]:
    """Loads pictures in threads, in order, never more than `ahead` before they are needed."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting: deque[Future[tuple[Tensor, str]]] = deque()
        try:
            for ref in refs:
                waiting.append(pool.submit(load_picture, ref, transform))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


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

    loaded = _prefetched(distinct, transform, workers=workers, ahead=2 * batch_size)
    for chunk in _chunks(loaded, batch_size):
        pixels = [picture for picture, _ in chunk]
        hashes += [sha256 for _, sha256 in chunk]
        with torch.inference_mode():
            values += [result.clone() for result in in_batches(pixels, size, encode)]
        stage.advance(len(chunk))
    features = torch.cat(values)
    _check_finite(features, distinct)
    rows = {ref.id: row for row, ref in enumerate(distinct)}
    return ImageFeatures(values=features, rows=rows, sha256=hashes, batch_size=size.value)


def _chunks[T](items: Iterator[T], size: int) -> Iterator[list[T]]:
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _check_finite(features: Tensor, refs: Sequence[ImageRef]) -> None:
    bad = (~features.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise CorruptData(
            f"the embedding of picture {refs[bad[0]].id} is not finite ({len(bad)} such); use "
            f"--precision fp32, or check the backbone's weights"
        )
