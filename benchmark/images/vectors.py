"""Frozen features in place of pictures: one vector a file, read without running what is in it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.paths import to_line

VECTOR_ENDING = ".npy"
_SIGNATURE = b"\x93NUMPY"
_MEND = (
    "make it again with bench data convert-features, and choose the backbone features:WIDTH of its "
    "width"
)


def is_array_file(content: bytes) -> bool:
    """Whether a file is one of numpy's, by how it begins."""
    return content.startswith(_SIGNATURE)


def read_array(content: bytes) -> NDArray[Any]:
    """Read what `numpy.save` wrote.

    Raises:
        CorruptData: it is no such file, cut short, or holds Python objects, which are not made.
    """
    if not is_array_file(content):
        raise CorruptData("it must be a vector in an .npy file, got another kind of file")
    try:
        values: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a damaged header makes numpy raise whatever it likes
        raise CorruptData(
            f"it must be a whole .npy file of numbers ({to_line(str(error))})"
        ) from error
    return values


def decode_vector(content: bytes, width: int | None = None) -> NDArray[np.float32]:
    """Read a picture's frozen features.

    Args:
        width: how many numbers they must be; None where any will do.

    Returns:
        (width,) float32.

    Raises:
        CorruptData: they are no such vector, or not finite; does not say of which picture.
    """
    try:
        values = read_array(content)
    except CorruptData as error:
        raise CorruptData(f"{error}; {_MEND}") from error
    if values.dtype != np.float32 or values.ndim != 1 or width not in (None, len(values)):
        wanted = f"a vector of {'' if width is None else f'{width:,} '}float32 numbers"
        raise CorruptData(f"it must be {wanted}, got {describe_array(values)}; {_MEND}")
    if not np.isfinite(values).all():
        raise CorruptData(f"its numbers must be finite, got NaN or infinity; {_MEND}")
    return values


def describe_array(values: NDArray[Any]) -> str:
    """Say an array's kind of numbers and its shape, for a message."""
    return f"{values.dtype} of the shape {values.shape}"
