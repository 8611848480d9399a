"""Weights on disk: read without ever running what is in the file, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cirbench.benchmark.api.method import Checkpoint
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.files import check_is_file, sha256_of_file, write_whole

if TYPE_CHECKING:
    from cirbench.benchmark.api.backbone import Backbone


@contextmanager
def loading_network(checkpoint: Checkpoint, what: str) -> Iterator[None]:
    """Turn errors while a network is built into CorruptData that names the checkpoint.

    Raises:
        CorruptData: it holds something else; says what.
    """
    try:
        yield
    except KeyError as error:
        raise _describe_misfit(checkpoint, what, f"it lacks {error}") from error
    except (ValueError, IndexError, AttributeError, RuntimeError, TypeError) as error:
        raise _describe_misfit(checkpoint, what, first_line(error)) from error


def _describe_misfit(checkpoint: Checkpoint, what: str, why: str) -> CorruptData:
    keys = [
        f"{key}/{inner}" if inner else str(key)
        for key, value in checkpoint.content.items()
        for inner in (value if isinstance(value, Mapping) and value else [""])
    ]
    return CorruptData(
        f"{checkpoint.path} must hold weights of a {what} ({why}); its keys are {name_some(keys)}"
    )


def first_line(error: BaseException) -> str:
    """Shorten an error of a library for a message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:_LONGEST]


def name_some(keys: Sequence[object]) -> str:
    """List the first of many names, for a message."""
    more = f" and {len(keys) - _NAMED:,} more" if len(keys) > _NAMED else ""
    return ", ".join(str(key)[:_LONGEST] for key in keys[:_NAMED]) + more


_NAMED, _LONGEST = 6, 200


def find_network_weights(checkpoint: Checkpoint, key: str) -> dict[str, Tensor]:
    """Find a network's weights in a file of ours, or under `key` in its authors' release.

    For use within `loading_network`.
    """
    content = checkpoint.content.get(key, checkpoint.content)
    return {name: tensor.float() for name, tensor in strip_wrappers(content).items()}


def strip_wrappers(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Remove what wrappers put before the names of weights.

    Several GPUs leave "module." at the front, torch.compile "_orig_mod." where it was called.

    Raises:
        ValueError: two names are then the same.
    """
    plain = {_unwrap(str(name)): value for name, value in weights.items()}
    if len(plain) < len(weights):
        raise ValueError("some weights occur twice, with and without a wrapper's prefix")
    return plain


def _unwrap(name: str) -> str:
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while parts[0] == "module":
        del parts[0]
    return ".".join(parts)


def fill_network(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a network, all of them and no others. For use within `loading_network`.

    Raises:
        ValueError: as `check_fits`.
    """
    check_fits(network, weights)
    network.load_state_dict(weights)


def check_fits(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Hold weights to a network's. For use within `loading_network`.

    Raises:
        ValueError: names are missing or unknown, shapes differ, or numbers are not finite; says
            which.
    """
    own = network.state_dict()
    shaped = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    spoiled = [name for name in own if name in weights and not weights[name].isfinite().all()]
    faults = {
        "missing": [name for name in own if name not in weights],
        "unknown": [name for name in weights if name not in own],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)}, not {tuple(own[name].shape)}" for name in shaped
        ],
        "not finite": spoiled,
    }
    if told := [f"{kind}: {name_some(names)}" for kind, names in faults.items() if names]:
        raise ValueError("; ".join(told))


def check_widths(checkpoint: Checkpoint, found: tuple[int, int], backbone: Backbone) -> None:
    """Hold a network from embeddings to pseudo-words to the backbone's two widths.

    Raises:
        CorruptData: it does not; the message has all four numbers.
    """
    wanted = (backbone.embedding_width, backbone.token_width)
    if found != wanted:
        raise CorruptData(
            f"{checkpoint.path} maps embeddings of width {found[0]} to words of width {found[1]}; "
            f"{backbone.name} has {wanted[0]} and {wanted[1]}: it was trained for another backbone"
        )


def describe_other_weights(checkpoint: Checkpoint, backbone: Backbone) -> tuple[str, ...]:
    """Remark on a checkpoint that says it was trained over other towers than these.

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
    """Read a .safetensors file, or what `torch.save` wrote.

    Raises:
        MissingData: there is no such file.
        CorruptData: it is cut short, no weights file at all, or holds executable pickle.
    """
    check_is_file(path, "checkpoint")
    sha256 = sha256_of_file(path)
    if path.suffix == ".safetensors":
        tensors, provenance = _read_safetensors(path)
        return Checkpoint(path=path, content=tensors, provenance=provenance, sha256=sha256)
    return Checkpoint(path=path, content=_read_torch(path), sha256=sha256)


def write_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]
) -> None:
    """Write a safetensors file with a JSON header, through a temporary name."""
    header = {"cirbench": json.dumps(provenance, sort_keys=True)}
    with write_whole(path) as temporary:
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()},
            temporary,
            metadata=header,
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            check_count(path, len(keys))
            tensors = {name: file.get_tensor(name) for name in keys}
            header = json.loads((file.metadata() or {}).get("cirbench", "{}"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CorruptData(
            f"{path} is not a whole safetensors file ({first_line(error)}); copy or train it again"
        ) from error
    _check_header(path, header)
    return tensors, header


def check_count(path: Path, count: int) -> None:
    """Refuse a file of more tensors than any network has, before they are read.

    Raises:
        CorruptData: it is one.
    """
    if count > _MOST_ENTRIES:
        raise CorruptData(
            f"{path} must hold at most {_MOST_ENTRIES:,} tensors, got {count:,}; no network here "
            f"has so many"
        )


_MOST_ENTRIES = 10_000
"""The largest CLIPs have 2,000, and three times as many with an optimizer's state."""
_HEADER = {"trained_on": str, "base": str, "backbone": dict, "loss_scale": dict}
"""What is read of a header, by its type."""


def _check_header(path: Path, header: object) -> None:
    if not isinstance(header, dict):
        raise CorruptData(
            f"the header of {path} must be a JSON object, got a {type(header).__name__}; train it "
            f"again"
        )
    for name, kind in _HEADER.items():
        if not isinstance(header.get(name, kind()), kind):
            raise CorruptData(
                f"{name} in the header of {path} must be {'text' if kind is str else 'an object'}, "
                f"got {json.dumps(header[name])[:_LONGEST]}; train it again"
            )


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


_DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
    zipfile.BadZipFile,
)
"""What torch's readers raise, by where a file was cut."""


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, *_DAMAGED) as error:
        raise _explain_unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise CorruptData(f"{path} must hold named weights, got a {type(content).__name__}")
    return content


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    check_count(path, len(names))
    if any(name.endswith("/constants.pkl") for name in names):
        raise CorruptData(
            f"{path} holds a compiled program (TorchScript), and running it is refused; ask its "
            f"author for a file of plain tensors"
        )


def _explain_unreadable(path: Path, error: BaseException) -> CorruptData:
    """Explain why torch did not read a file; its own message advises to run what is in it."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        return CorruptData(
            f"{path} holds more than weights{f' ({named[1]})' if named else ''}, and running it is "
            f"refused; ask its author for a file of plain tensors"
        )
    return CorruptData(
        f"{path} cannot be read as weights ({type(error).__name__}: {first_line(error)}); it is "
        "truncated, or not a checkpoint: copy it again"
    )
