"""From a drawing to a packed picture, and what makes two of them the same drawing."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from cirbench.benchmark.images.decoding import decode
from cirbench.benchmark.runtime.files import write_whole
from cirbench.datasets.embedded.pack import PICTURES, TABLE

WEBP_QUALITY = 80
NEAR = 0.02
"""Two pictures nearer than this (mean absolute difference of 16 × 16 RGB, 0..1) are one drawing."""


def render(svg: str) -> Image.Image:
    """An SVG at its own size; needs the build extra (resvg-py)."""
    import resvg_py

    return decode(bytes(resvg_py.svg_to_bytes(svg_string=svg)))


def paste_on_white(image: Image.Image, side: int) -> Image.Image:
    """The picture on white at `side` pixels."""
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return (
        Image.alpha_composite(white, rgba)
        .convert("RGB")
        .resize((side, side), Image.Resampling.LANCZOS)
    )


def encode(image: Image.Image) -> bytes:
    """The file of a picture; a function of its pixels and of the versions of Pillow and libwebp."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, method=6)
    return buffer.getvalue()


def make_thumbnail(content: bytes) -> NDArray[np.float32]:
    """(768,) float32 in 0..1 of a picture's file, to tell near pictures by."""
    small = decode(content).convert("RGB").resize((16, 16), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).reshape(-1) / np.float32(255)


def write_pack(folder: Path, rows: Sequence[Mapping[str, str]], contents: Sequence[bytes]) -> None:
    """Write both files of a `Pack`.

    Args:
        rows: what each picture shows, in the same columns.
        contents: its file.
    """
    offsets = np.cumsum([0, *(len(content) for content in contents)], dtype=np.int64)
    data = np.frombuffer(b"".join(contents), dtype=np.uint8)
    with write_whole(folder / PICTURES) as path:
        save_file({"bytes": data, "offsets": offsets}, path)
    write_table(
        folder / TABLE,
        [
            {**row, "sha256": hashlib.sha256(content).hexdigest()}
            for row, content in zip(rows, contents, strict=True)
        ],
    )


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows of the same columns as a .csv file with a header."""
    with write_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
