"""Checks and errors of loading weights through a library; missing weights are never filled in."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cirbench.benchmark.checkpoints import check_count
from cirbench.benchmark.runtime.errors import CirbenchError, CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.parsing import read_json

_NAMED, _LONGEST = 3, 300
_STORED = ("F64", "F32", "F16", "BF16", "I64", "BOOL")
"""Kinds of numbers in a file of weights: I64 are positions and counts."""
_SAMPLE = 4096
"""So many values of a matrix tell whole numbers from weights."""


@contextmanager
def translate_errors(
    name: str, folder: Path | None, what: str = "CLIP model"
) -> Iterator[list[str]]:
    """Turn what a library raises into an error about the weights, and collect what it logs.

    Args:
        folder: where the files must be; None where they come from a hub.

    Raises:
        MissingData: the hub can't be reached, and the files are not on this machine; or a package
            is not.
        CorruptData: the files are there and can't be used.
    """
    root, log = logging.getLogger(), _Log()
    level, handlers = root.level, root.handlers[:]
    root.handlers[:] = [log]
    root.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield log.lines
    except ImportError as error:
        raise MissingData(f"{name} needs a package that is not installed: {error}") from error
    except (CirbenchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # tokenizers raises no narrower class for a bad vocabulary
        why = _say(error)
        if folder is None and (isinstance(error, OSError) or "ownload" in why or "HF Hub" in why):
            raise MissingData(
                f"the weights of {name} are not on this machine and cannot be fetched ({why}); "
                "fetch them on a machine with network access, with HF_HOME on a shared disk"
            ) from error
        raise CorruptData(f"the files of {name} must be those of a {what}: {why}") from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


class _Log(logging.Handler):
    """Lines that a library logs, kept off the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _say(error: BaseException) -> str:
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "its weights are a pickle that holds more than tensors, which is never run"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST]}"


def check_folder(name: str, folder: Path, needed: Mapping[str, Collection[str]]) -> None:
    """Hold a folder to what a model needs: kind of file → names, one of which must be there.

    Raises:
        MissingData: a kind is not there.
        CorruptData: a configuration is not valid JSON, or weights are stored as whole numbers.
    """
    for kind, names in needed.items():
        if not any(any(folder.glob(one)) for one in names):
            raise MissingData(f"{name}: {folder} must hold {kind} ({' or '.join(names)})")
        for path in (folder / one for one in names if one.endswith("config.json")):
            read_json(path)
    for path in sorted(folder.glob("*.safetensors")):
        _check_stored(name, path)


def _check_stored(name: str, path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            kinds = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise CorruptData(f"{name}: {path} is not a whole safetensors file ({error})") from error
    check_count(path, len(kinds))
    whole = [key for key, kind in kinds.items() if kind not in _STORED]
    if whole:
        raise CorruptData(
            f"{name}: weights must be floating-point numbers, got {len(whole)} quantised ones in "
            f"{path}, the first is {whole[0]}"
        )


def check_report(name: str, report: Mapping[str, Collection[str]]) -> None:
    """Hold a library's loading report to "everything was in the file".

    Raises:
        CorruptData: a weight was missing or of another shape; names the first.
    """
    lacking = sorted(
        str(key) for kind in ("missing_keys", "mismatched_keys") for key in report.get(kind, ())
    )
    if lacking:
        raise CorruptData(
            f"{name}: {len(lacking)} weights are missing from its files, or have another shape: "
            f"{', '.join(lacking[:_NAMED])}{(', …' if lacking[_NAMED:] else '')}"
        )


def read_channels(name: str, what: str, values: object) -> tuple[float, float, float]:
    """A model's own mean or deviation of red, green and blue.

    Raises:
        CorruptData: they are not three numbers.
    """
    if (
        not isinstance(values, Sequence)
        or len(values) != 3
        or not all(isinstance(value, int | float) for value in values)
    ):
        raise CorruptData(f"{name}: the {what} of pictures must be three numbers, got {values!r}")
    red, green, blue = map(float, values)
    return red, green, blue


def read_deviations(name: str, values: object) -> tuple[float, float, float]:
    """A model's own standard deviations of red, green and blue.

    Raises:
        CorruptData: they are not three numbers above zero.
    """
    found = read_channels(name, "standard deviation", values)
    if min(found) <= 0:
        raise CorruptData(f"{name}: the standard deviation must be above zero, got {values!r}")
    return found


def read_square_side(name: str, size: int | Sequence[int]) -> int:
    """The side of the square that an image tower takes.

    Raises:
        UsageError: it takes another rectangle.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UsageError(f"the input of {name} must be square, got {height} × {width}")
    return height


def check_weights(name: str, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that can't have been trained.

    Raises:
        CorruptData: a weight is not finite, or a whole matrix is zero or of whole numbers.
    """
    for key, tensor in weights.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        norm = torch.linalg.vector_norm(tensor.detach())  # one fast pass; large values overflow
        if not norm.isfinite() and not tensor.isfinite().all():
            raise CorruptData(f"{name}: weights must be finite, {key} is not")
        if tensor.dim() > 1 and norm == 0:
            raise CorruptData(f"{name}: the weight {key} must not be all zero")
        sample = tensor.detach().flatten()[:_SAMPLE].float().cpu().numpy()  # numpy: no threads
        if tensor.dim() > 1 and sample.any() and (sample == np.rint(sample)).all():
            raise CorruptData(f"{name}: the weight {key} must not be quantised, got whole numbers")
