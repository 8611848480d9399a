"""Pickles of one numpy array of floating-point numbers, read without running what they name.

A pickle names functions and calls them, whichever they are. Here what numpy names in an array's
pickle gets a stand-in that keeps bytes and numbers, and any other name is refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.paths import to_line

_FLOATS = ("f2", "f4", "f8")


def read_pickled_array(content: bytes) -> NDArray[Any]:
    """Read an array of floating-point numbers, as numpy pickles it up to protocol 4.

    Raises:
        CorruptData: it is something else, or names anything else.
        Exception: whatever a damaged pickle makes the reader raise.
    """
    found = _ArrayUnpickler(io.BytesIO(content)).load()
    if not isinstance(found, _Array):
        raise CorruptData(f"it must be a pickle of a numpy array, got a {type(found).__name__}")
    return found.values


class _ArrayUnpickler(pickle.Unpickler):
    """Gives a stand-in for each name that an array's pickle needs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise CorruptData(
                f"it holds more than an array of numbers ({to_line(f'{module}.{name}')}), and "
                f"running it is refused; ask its author for plain arrays"
            )
        return _STAND_INS[module, name]


class _FloatType:
    """Stands for `numpy.dtype`: a kind of floating-point numbers, and later its byte order."""

    def __init__(self, code: str, *_align_and_copy: object) -> None:
        if code not in _FLOATS:
            raise CorruptData(f"it must hold floating-point numbers, got numpy's {code!r:.20}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for an array: empty at first, and filled when its bytes come."""

    def __init__(self, *_kind_and_shape: object) -> None:
        self.values: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, _fortran, content = state
        self.values = np.frombuffer(content, kind.dtype).reshape(shape)


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, by which pickles of protocol 2 keep bytes."""
    if encoding != "latin1":
        raise CorruptData(f"its bytes must be kept as latin1, got {encoding!r:.20}")
    return text.encode("latin1")


_STAND_INS: Mapping[tuple[str, str], object] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _FloatType,
    ("_codecs", "encode"): _encode_latin1,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}
"""What an array's pickle names, by old and by new versions of numpy."""
