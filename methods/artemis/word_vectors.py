"""Vectors of words from a text file of GloVe's (Pennington et al., EMNLP 2014).

A line is a word and its numbers, between single spaces. Of some words of the largest file, GloVe
840B, a space is a part.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.files import check_is_file

_LONGEST_LINE = 2**16


def read_word_vectors(path: Path, words: Collection[str], width: int) -> dict[str, Tensor]:
    """Read the vectors of some words; the file is read once, and nothing else of it is kept.

    Returns:
        Word → (width,) float32, of those that the file has; of a word's lines the first counts.

    Raises:
        MissingData: there is no such file.
        CorruptData: a line is no word and `width` numbers, or such a number is not finite.
    """
    check_is_file(path, "file of word vectors")
    wanted = {word.encode(): word for word in words}
    found: dict[str, Tensor] = {}
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            parts = line.strip().split(b" ")
            _check_parts(parts, width, f"{path}, line {number}")
            word = wanted.get(parts[0]) if len(parts) == width + 1 else None
            if word is not None and word not in found:
                found[word] = _read_numbers(parts[1:], f"{path}, line {number}")
    return found


def _check_parts(parts: list[bytes], width: int, where: str) -> None:
    """Check that a line is so wide: what stands before its numbers must be a word."""
    extra = parts[1:-width]
    if len(parts) <= width or any(map(_is_number, extra)):
        raise CorruptData(
            f"{where} must be a word and {width} numbers, got {len(parts)} parts; choose another "
            f"file, or set word_width to the file's"
        )


def _is_number(part: bytes) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True


def _read_numbers(parts: list[bytes], where: str) -> Tensor:
    try:
        numbers = torch.tensor([float(part) for part in parts], dtype=torch.float32)
    except ValueError as error:
        raise CorruptData(f"{where} must be a word and numbers: {error}") from error
    if not numbers.isfinite().all():
        raise CorruptData(f"{where} must have finite numbers")
    return numbers
