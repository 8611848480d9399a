"""Frozen features as others release them, made into one `.npy` file a picture.

The authors of CIRR (Cuberick-Orion/CIRR, `img_feat_res152`) release a pickle of one numpy array a
picture, others one file with all vectors by their pictures' names.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open

from cirbench.benchmark.data.array_pickle import read_pickled_array
from cirbench.benchmark.images.decoding import EXTENSIONS
from cirbench.benchmark.images.vectors import VECTOR_ENDING, describe_array, read_array
from cirbench.benchmark.runtime.archives import check_zip
from cirbench.benchmark.runtime.errors import CirbenchError, CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.files import check_is_file, read_regular_file, write_whole
from cirbench.benchmark.runtime.paths import check_inside, to_line, to_text
from cirbench.benchmark.runtime.progress import Reporter

PICKLE_ENDING = ".pkl"
Reader = Callable[[], NDArray[Any]]
"""Gives the array that a source has under one name; raises anything."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How many vectors were written, of how many numbers each."""

    count: int
    width: int


def convert_features(source: Path, output: Path, reporter: Reporter) -> Conversion:
    """Write each vector of a source into a float32 file of its own, `output/NAME.npy`.

    Args:
        source: a folder with a .pkl file a picture at any depth, an .npz or .safetensors file of
            vectors by their names, or a .parquet table with a column of names and one of lists.

    Raises:
        MissingData: there is no source, or no vector in it.
        UsageError: it is of another kind, or `output` can't be written.
        CorruptData: what is under a name is no vector of finite floating-point numbers, or of
            another width than the first; a name leaves `output`, or two become one file; a pickle
            holds more than an array. Files before it are written, each of them whole.
    """
    width = None
    with ExitStack() as held:
        readers = find_vectors(source, held)
        files = name_files(list(readers), source)
        with reporter.stage("converting", len(files)) as stage:
            for name, file in files.items():
                origin = f"{to_text(source)}, {to_line(name)}"
                vector = read_vector(readers[name], origin)
                width = width or len(vector)
                if len(vector) != width:
                    raise CorruptData(
                        f"{origin}: every vector must have the width of the first, {width:,}, got "
                        f"{len(vector):,}; convert each kind by itself"
                    )
                _write(output / file, vector)
                stage.advance(1)
    if width is None:
        raise MissingData(f"no vectors in {to_text(source)}; check the path")
    return Conversion(count=len(files), width=width)


def find_vectors(source: Path, held: ExitStack) -> Mapping[str, Reader]:
    """Name → what reads its vector, in the source's order; a file stays open as long as `held`.

    Raises:
        MissingData, UsageError, CorruptData: as `convert_features`.
    """
    if source.is_dir():
        return {
            path.relative_to(source).as_posix(): partial(_read_pickle_file, path)
            for path in sorted(source.rglob(f"*{PICKLE_ENDING}"))
        }
    check_is_file(source, "folder or file of features")
    if source.suffix == ".npz":
        with _explain_damage(to_text(source)):
            archive = held.enter_context(zipfile.ZipFile(source))
        check_zip(source, archive)
        return {name: partial(_read_member, archive, name) for name in archive.namelist()}
    if source.suffix == ".safetensors":
        with _explain_damage(to_text(source)):
            tensors = held.enter_context(safe_open(source, framework="np"))
        return {name: partial(tensors.get_tensor, name) for name in list(tensors.keys())}
    if source.suffix == ".parquet":
        return _read_table(source)
    raise UsageError(
        f"features must be a folder of {PICKLE_ENDING} files, an .npz, a .safetensors or a "
        f".parquet file, got {to_text(source)}"
    )


def _read_table(source: Path) -> Mapping[str, Reader]:
    if find_spec("pyarrow") is None:
        raise MissingData(f"reading {to_text(source)} needs pyarrow; pip install pyarrow")
    with _explain_damage(to_text(source)):
        frame = pd.read_parquet(source, engine="pyarrow")
    named = [name for name in frame if all(isinstance(value, str) for value in frame[name])]
    if len(named) != 1 or len(frame.columns) != 2 or not frame[named[0]].is_unique:
        raise CorruptData(
            f"{to_text(source)} must have a column of names, each once, and one of lists of "
            f"numbers, got the columns {', '.join(map(to_line, map(str, frame.columns)))}"
        )
    table = frame.set_index(named[0]).iloc[:, 0]
    return {str(name): partial(np.asarray, vector) for name, vector in table.items()}


def name_files(names: list[str], source: Path) -> dict[str, str]:
    """Name → the file of its vector, relative to the output's folder, without a picture's ending.

    Raises:
        CorruptData: a name leaves that folder, or two names are one file.
    """
    files: dict[str, str] = {}
    named: dict[str, str] = {}
    for name in names:
        bare = name.removesuffix(PICKLE_ENDING).removesuffix(VECTOR_ENDING)
        stem, _, ending = bare.rpartition(".")
        picture = stem if f".{ending.lower()}" in EXTENSIONS else bare
        file = check_inside(f"{picture}{VECTOR_ENDING}", to_text(source))
        if named.setdefault(file, name) != name:
            raise CorruptData(
                f"{to_text(source)}: every name must be a file of its own, got {named[file]!r} and "
                f"{name!r} for one; rename one"
            )
        files[name] = file
    return files


def read_vector(read: Reader, origin: str) -> NDArray[np.float32]:
    """Read one vector → (width,) float32, finite.

    Args:
        origin: where it is, for errors.

    Raises:
        CorruptData: it can't be read, or is none.
    """
    with _explain_damage(origin):
        found = read()
    if found.ndim != 1 or not found.size or found.dtype.kind != "f":
        raise CorruptData(
            f"{origin} must be a vector of floating-point numbers, got {describe_array(found)}"
        )
    with np.errstate(over="ignore"):
        vector = found.astype(np.float32)
    if not np.isfinite(vector).all():
        raise CorruptData(
            f"{origin} must hold finite float32 numbers, got NaN, infinity or one beyond float32; "
            f"ask its author for another file"
        )
    return vector


def _write(path: Path, vector: NDArray[np.float32]) -> None:
    try:
        with write_whole(path) as temporary:
            np.save(temporary, vector)
    except OSError as error:
        raise UsageError(
            f"{to_text(path)} cannot be written ({error.strerror}); free space, or choose another "
            f"folder"
        ) from error


@contextmanager
def _explain_damage(origin: str) -> Iterator[None]:
    try:
        yield
    except CirbenchError as error:
        raise CorruptData(f"{origin} cannot be read: {error}") from error
    except Exception as error:  # of damaged files readers raise whatever they like
        raise CorruptData(
            f"{origin} cannot be read ({type(error).__name__}: {to_line(str(error))}); it "
            f"may be truncated: fetch it again"
        ) from error


def _read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    return read_array(archive.read(name))


def _read_pickle_file(path: Path) -> NDArray[Any]:
    return read_pickled_array(read_regular_file(path))
