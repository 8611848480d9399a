"""The one way from a picture's bytes to its pixels. Nothing else in cirbench opens a picture.

A file may say that it is of any of the forty formats that Pillow knows, whatever its name ends in,
and some of these start a program (EPS starts Ghostscript) or read other files. So only a few
formats are ever tried, and a size that would cost far more than it is worth is refused by the
header, before a decoder runs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from cirbench.benchmark.images.vectors import is_array_file
from cirbench.benchmark.runtime.errors import CirbenchError, CorruptData

PICTURE_FORMATS: Mapping[str, tuple[str, ...]] = {
    "WEBP": (".webp",),
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
"""Format → endings. Tried in this order; Pillow itself tries WebP last, after thirty others."""
EXTENSIONS = frozenset(ending for endings in PICTURE_FORMATS.values() for ending in endings)

MOST_PIXELS = 2 * 89_478_485
"""Above this Pillow itself refuses: 0.5 GB as RGB."""
MOST_ELONGATED = 100
"""The longer side by the shorter. Towers resize the shorter side to theirs and only then crop, so
that a picture of 1 × 60,000 would become one of 224 × 13,440,000."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def open_picture(content: bytes, *, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """A picture whose header was read, and no pixel yet.

    Raises:
        CorruptData: it is of no format that may be opened, too large, or too elongated; of frozen
            features it says which backbone takes them.
    """
    if is_array_file(content):
        raise CorruptData(
            "it must be a picture, got a vector (.npy); choose the backbone features:WIDTH, or a "
            "--data-root with pictures"
        )
    with _refuse_damaged(most_pixels):
        formats = tuple(PICTURE_FORMATS)
        image = Image.open(io.BytesIO(_drop_png_texts(content)), formats=formats)
        check_size(*image.size, most_pixels)
        return image


def decode(
    content: bytes, *, most_pixels: int = MOST_PIXELS, draft: tuple[int, int] | None = None
) -> Image.Image:
    """A picture with its pixels.

    Args:
        draft: a JPEG may be decoded at a half, a quarter or an eighth of its size that is no
            smaller than this (width, height).

    Raises:
        CorruptData: as `open_picture`, or its data are damaged or cut short.
    """
    with open_picture(content, most_pixels=most_pixels) as image, _refuse_damaged(most_pixels):
        if draft:
            image.draft("RGB", draft)
        image.load()
    return image


def is_deep_grey(image: Image.Image) -> bool:
    """Whether its greys have more than 8 bits; what exceeds 255 becomes white in a tower's input,
    as in the released codes."""
    return image.mode[0] in "IF"


@contextmanager
def _refuse_damaged(most_pixels: int) -> Iterator[None]:
    try:
        yield
    except CirbenchError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(PICTURE_FORMATS)
        raise CorruptData(f"it must be a picture of one of the formats {known}") from error
    except Image.DecompressionBombError as error:
        raise CorruptData(f"it must have at most {most_pixels:,} pixels") from error
    except Exception as error:  # a damaged file makes decoders raise whatever they like
        raise CorruptData(str(error) or type(error).__name__) from error


def check_size(width: int, height: int, most_pixels: int = MOST_PIXELS) -> None:
    """Hold a picture to its bounds before its pixels are made.

    Raises:
        CorruptData: it is too large, or too elongated; does not say which picture it is.
    """
    if width * height > most_pixels:
        raise CorruptData(
            f"it must have at most {most_pixels:,} pixels, got {width:,} × {height:,}; scale it "
            f"down"
        )
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise CorruptData(
            f"its longer side must be at most {MOST_ELONGATED} times the shorter, got {width:,} × "
            f"{height:,}; crop it"
        )


def _drop_png_texts(content: bytes) -> bytes:
    """A PNG without its texts and its colour profile, which move no pixel here, and for which
    Pillow refuses a picture where they are large. What is no whole chunk stays as it is."""
    if not content.startswith(_PNG_SIGNATURE) or not any(kind in content for kind in _PNG_TEXTS):
        return content
    kept = [_PNG_SIGNATURE]
    start = len(_PNG_SIGNATURE)
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4])
        if content[start + 4 : start + 8] not in _PNG_TEXTS:
            kept.append(content[start:end])
        start = end
    kept.append(content[start:])
    return b"".join(kept)
