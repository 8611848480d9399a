"""A batch of pictures as a tower's input, for what is read again rather than kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.preprocess import make_transform
from cirbench.benchmark.images.reading import load_picture, prefetch


def read_pixels(refs: Sequence[ImageRef], preprocess: str, spec: ImageSpec, workers: int) -> Tensor:
    """Read and preprocess pictures, each distinct one once.

    Args:
        preprocess: the protocol's name for the way from a picture to the tower's input.
        workers: threads that read and decode.

    Returns:
        (len(refs), 3, S, S) float32 on the CPU; at least one picture must be asked for.

    Raises:
        UsageError: no preprocessing has that name.
        MissingData, CorruptData: a picture can't be read; the message names it, and its row among
            the distinct ones.
    """
    distinct = {ref.id: ref for ref in refs}
    jobs = (
        partial(load_picture, ref, make_transform(preprocess, spec, ref.box), row)
        for row, ref in enumerate(distinct.values())
    )
    loaded = prefetch(jobs, workers=workers, ahead=2 * workers)
    pixels = {name: picture for name, (picture, _) in zip(distinct, loaded, strict=True)}
    return torch.stack([pixels[ref.id] for ref in refs])
