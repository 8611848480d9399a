"""Vectors of a gallery and of queries in one file, as a model that is not run here made them.

A .safetensors or .npz file holds `gallery` (N, C) and `queries` (Q, C), and may hold `reference`
and `text` (Q, C), what each query is without the other. Their ids are `gallery_ids` and
`query_ids`: arrays of texts in an .npz file, JSON lists in the metadata of a .safetensors file, or
both in a JSON file beside it of the same name. A .parquet table has a row a vector: `part`, `id`,
`vector`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from cirbench.benchmark.runtime.archives import check_zip
from cirbench.benchmark.runtime.errors import CirbenchError, CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.files import check_is_file, sha256_of_file
from cirbench.benchmark.runtime.parsing import read_json
from cirbench.benchmark.runtime.paths import to_line, to_text

NEEDED, OPTIONAL = ("gallery", "queries"), ("reference", "text")
ENDINGS = (".safetensors", ".npz", ".parquet")
_IDS = {"gallery": "gallery_ids"}
_QUERY_IDS = "query_ids"


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """(N, C) float32 vectors, finite and none of them zero, and their N ids, each once."""

    ids: Sequence[str]
    values: Tensor


@dataclass(frozen=True, kw_only=True)
class VectorFile:
    """A file of vectors.

    Attributes:
        files: name → sha256, of the file and of the ids beside it.
        parts: gallery, queries, and what there is of reference and text; all of one width.
    """

    path: Path
    files: Mapping[str, str]
    parts: Mapping[str, Vectors]


def read_vectors(path: Path) -> VectorFile:
    """Read a file of vectors.

    Raises:
        MissingData: there is no such file, or pyarrow is needed for it and not installed.
        UsageError: it is of another kind.
        CorruptData: it is damaged or holds Python objects; a part or its ids are not there; a
            vector is not finite, zero, or of another width; an id is given twice.
    """
    check_is_file(path, "file of vectors")
    beside = path.with_suffix(".json")
    ids_beside = read_json(beside) if beside.is_file() and path.suffix != ".parquet" else {}
    with _explain_damage(path):
        if path.suffix == ".safetensors":
            found = _read_safetensors(path, ids_beside)
        elif path.suffix == ".npz":
            found = _read_npz(path, ids_beside)
        elif path.suffix == ".parquet":
            found = _read_parquet(path)
        else:
            raise UsageError(f"vectors must be in a {', '.join(ENDINGS)} file, got {to_text(path)}")
    if lacking := [name for name in NEEDED if name not in found]:
        raise CorruptData(f"{to_text(path)} must hold {' and '.join(NEEDED)}, lacks {lacking[0]}")
    parts = {name: _check(found[name], f"{to_text(path)}, {name}") for name in found}
    width = parts["gallery"].values.shape[1]
    for name, part in parts.items():
        if part.values.shape[1] != width:
            raise CorruptData(
                f"{to_text(path)}, {name}: vectors must have the width of the gallery's, "
                f"{width:,}, got {part.values.shape[1]:,}"
            )
    hashed = [path, beside] if ids_beside else [path]
    return VectorFile(
        path=path, files={to_text(p.name): sha256_of_file(p) for p in hashed}, parts=parts
    )


def _check(part: Vectors, origin: str) -> Vectors:
    values = part.values
    if values.ndim != 2 or not values.is_floating_point() or not len(values):
        raise CorruptData(
            f"{origin} must be (N, C) floating-point numbers, got {values.dtype} of the shape "
            f"{tuple(values.shape)}"
        )
    if len(part.ids) != len(values):
        raise CorruptData(
            f"{origin}: there must be an id for each of {len(values):,} vectors, got "
            f"{len(part.ids):,}"
        )
    seen: set[str] = set()
    for name in part.ids:
        if name in seen:
            raise CorruptData(f"{origin}: every id must be given once, got {name} twice")
        seen.add(name)
    values = values.float()
    for off, what in (
        (~values.isfinite().all(dim=1), "finite float32 numbers, got NaN or infinity"),
        ((values == 0).all(dim=1), "a direction, got zeros"),
    ):
        if off.any():
            first = part.ids[int(off.nonzero()[0])]
            raise CorruptData(
                f"{origin}: a vector must be {what} in {int(off.sum()):,} of {len(values):,}, the "
                f"first is {first}"
            )
    return Vectors(ids=part.ids, values=values)


def _read_safetensors(path: Path, beside: Mapping[str, Any]) -> dict[str, Vectors]:
    with safe_open(path, framework="pt") as file:  # NumPy has no bfloat16
        names = [name for name in (*NEEDED, *OPTIONAL) if name in set(file.keys())]
        tensors = {name: file.get_tensor(name) for name in names}
        said = file.metadata() or {}
    ids = {key: json.loads(said[key]) for key in (*_IDS.values(), _QUERY_IDS) if key in said}
    return _join_ids(path, tensors, {**beside, **ids})


def _read_npz(path: Path, beside: Mapping[str, Any]) -> dict[str, Vectors]:
    with zipfile.ZipFile(path) as packed:
        check_zip(path, packed)
    with np.load(path, allow_pickle=False) as arrays:
        names = [name for name in (*NEEDED, *OPTIONAL) if name in arrays.files]
        tensors = {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in names}
        keys = [key for key in (*_IDS.values(), _QUERY_IDS) if key in arrays.files]
        ids = {key: arrays[key].tolist() for key in keys}
    return _join_ids(path, tensors, {**beside, **ids})


def _join_ids(
    path: Path, tensors: Mapping[str, Tensor], ids: Mapping[str, Any]
) -> dict[str, Vectors]:
    parts = {}
    for name, values in tensors.items():
        key = _IDS.get(name, _QUERY_IDS)
        own = ids.get(key)
        if not isinstance(own, list) or not all(type(one) in (str, int) for one in own):
            raise CorruptData(
                f"{to_text(path)} must say the ids of its {name}: a list {key} in the file, or in "
                f"{to_text(path.with_suffix('.json').name)} beside it"
            )
        parts[name] = Vectors(ids=[str(one) for one in own], values=values)
    return parts


def _read_parquet(path: Path) -> dict[str, Vectors]:
    if find_spec("pyarrow") is None:
        raise MissingData(f"reading {to_text(path)} needs pyarrow; pip install pyarrow")
    import pyarrow
    from pyarrow import parquet

    table = parquet.read_table(path)
    kinds = {name: table.schema.field(name).type for name in table.schema.names}
    if not {"part", "id", "vector"} <= kinds.keys() or not _is_vector(kinds["vector"]):
        raise CorruptData(
            f"{to_text(path)} must have the columns part, id, and vector of lists of numbers, got "
            f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}"
        )
    parts = {}
    names = np.array(table.column("part").to_pylist(), dtype=np.str_)
    for name in (*NEEDED, *OPTIONAL):
        if not (chosen := names == name).any():
            continue
        rows = table.filter(pyarrow.array(chosen)).combine_chunks()
        cells = rows.column("vector").combine_chunks()
        widths = set(cells.value_lengths().to_pylist()) if len(cells) else {0}
        if len(widths) > 1 or cells.null_count:
            raise CorruptData(
                f"{to_text(path)}, {name}: vectors must have one width, got "
                f"{' and '.join(sorted(map(str, widths)))}"
            )
        flat = cells.flatten().to_numpy(zero_copy_only=False)
        values = torch.from_numpy(np.array(flat)).reshape(len(cells), -1)
        parts[name] = Vectors(ids=list(map(str, rows.column("id").to_pylist())), values=values)
    return parts


def _is_vector(kind: Any) -> bool:
    from pyarrow import types

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(check(kind) for check in lists) and bool(types.is_floating(kind.value_type))


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except CirbenchError:
        raise
    except Exception as error:  # of damaged files readers raise whatever they like
        raise CorruptData(
            f"{to_text(path)} cannot be read ({type(error).__name__}: {to_line(str(error))}); it "
            f"may be damaged, or hold Python objects, which are never read"
        ) from error
