"""Weights on disk: read without ever running what is in the file, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cirbench.benchmark.errors import CorruptData, MissingData
from cirbench.benchmark.files import sha256_of_file, written_whole

if TYPE_CHECKING:
    from cirbench.benchmark.interfaces import Backbone


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file of weights as it was read.

    Attributes:
        content: what `torch.load` gives, or the tensors of a safetensors file by name.
        provenance: the JSON header of our own files; empty for other people's.
        sha256: of the file.
    """

    path: Path
    content: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sha256: str


@contextmanager
def holding(checkpoint: Checkpoint, what: str) -> Iterator[None]:
    """Where a network can't be made from a checkpoint's weights, it is the checkpoint's fault.

    Raises:
        CorruptData: it holds something else; says what.
    """
    try:
        yield
    except (KeyError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise CorruptData(
            f"{checkpoint.path} holds no {what} ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); its keys are "
            f"{', '.join(map(str, list(checkpoint.content)[:6]))}"
        ) from error


def network_weights(checkpoint: Checkpoint, key: str) -> dict[str, Tensor]:
    """A network's weights in a file of ours, or under `key` in one that its authors released.

    Several GPUs leave "module." before each name. For use within `holding`.
    """
    content = checkpoint.content.get(key, checkpoint.content)
    return {str(name).removeprefix("module."): tensor.float() for name, tensor in content.items()}


def check_widths(checkpoint: Checkpoint, found: tuple[int, int], backbone: Backbone) -> None:
    """A network from embeddings to pseudo-words must fit the backbone's two widths.

    Raises:
        CorruptData: it does not; the message has all four numbers.
    """
    wanted = (backbone.embedding_width, backbone.token_width)
    if found != wanted:
        raise CorruptData(
            f"{checkpoint.path} maps embeddings of width {found[0]} to words of width {found[1]}; "
            f"{backbone.name} has {wanted[0]} and {wanted[1]}: it was trained for another backbone"
        )


def other_weights(checkpoint: Checkpoint, backbone: Backbone) -> tuple[str, ...]:
    """What is to be said where a checkpoint names the towers it was trained over, and not these.

    No error: the same CLIP through another library has other names for its weights.
    """
    trained = checkpoint.provenance.get("backbone", {})
    if trained.get("weights") in (None, backbone.weights_sha256):
        return ()
    return (
        f"{checkpoint.path.name} was trained over {trained.get('name')}, with other weights than "
        f"those of {backbone.name}: unless both are one CLIP, its numbers mean nothing",
    )


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal sha256 over names, dtypes, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a .safetensors file, or what `torch.save` wrote.

    Raises:
        MissingData: there is no such file.
        CorruptData: it is cut short, no weights file at all, or holds executable pickle.
    """
    if not path.is_file():
        raise MissingData(f"no checkpoint at {path}; check the path")
    sha256 = sha256_of_file(path)
    if path.suffix == ".safetensors":
        tensors, provenance = _read_safetensors(path)
        return Checkpoint(path=path, content=tensors, provenance=provenance, sha256=sha256)
    return Checkpoint(path=path, content=_read_torch(path), sha256=sha256)


def write_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]
) -> None:
    """Writes a safetensors file with a JSON header, through a temporary name."""
    header = {"cirbench": json.dumps(provenance, sort_keys=True)}
    with written_whole(path) as temporary:
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()},
            temporary,
            metadata=header,
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            header = (file.metadata() or {}).get("cirbench", "{}")
        return tensors, json.loads(header)
    except (SafetensorError, ValueError) as error:
        raise CorruptData(
            f"{path} is no whole safetensors file ({error}); copy or train it again"
        ) from error


# After warm-up the released training script leaves numpy numbers in the optimizer's state. Both
# names under which NumPy has pickled a scalar are harmless and allowed; nothing else is.
_NUMPY_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]  # as pickles name it
_SAFE_GLOBALS = [
    _NUMPY_SCALAR,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
]


_DAMAGED = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError,
            struct.error)  # fmt: skip
"""What torch's readers raise, by where a file was cut."""


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CorruptData(
            f"{path} holds more than weights, and running it is refused: "
            f"{str(error).splitlines()[0]}; ask its author for a file of plain tensors"
        ) from error
    except _DAMAGED as error:
        raise CorruptData(
            f"{path} can't be read as weights ({type(error).__name__}: {error}); it is cut short, "
            f"or something else: copy it again"
        ) from error
    if not isinstance(content, Mapping):
        raise CorruptData(f"{path} holds a {type(content).__name__}, not named weights")
    return content
