"""Records: one JSON file a cell, with its per-query data beside it, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cirbench.benchmark.api.per_query import PerQuery, Scores
from cirbench.benchmark.records.shape import RECORD, find_field, find_wrong_field
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.files import sha256_of_file, written_whole
from cirbench.benchmark.runtime.paths import check_inside

SCHEMA = 1
_SLUG = 48
_REQUIRED = (
    "schema",
    "cell",
    "method",
    "metrics",
    "protocol",
    "counts",
    "fingerprints",
    "annotations",
    "run",
    "environment",
    "per_query",
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a record is the record of; two cells that differ anywhere have different files."""

    method: str
    trained_on: str | None
    task: str
    split: str
    protocol: str
    """name@hash"""
    backbone: str
    checkpoint: str | None
    """sha256 of the method's own weights."""
    seed: int
    label: str | None = None
    """What a person calls this one, to tell it from others."""

    @property
    def path(self) -> Path:
        """Relative to the results folder: a readable slug and a hash of every field."""
        fields = {k: v for k, v in asdict(self).items() if k != "label" or v is not None}
        canonical = json.dumps(fields, sort_keys=True).encode()
        digest = hashlib.sha256(canonical).hexdigest()[:8]
        names = (self.method, self.backbone, self.protocol.split("@")[0], digest)
        return Path(slug(self.task)) / ("--".join(map(slug, names)) + ".json")


def slug(name: str) -> str:
    """A file name that is safe everywhere and still reads like the name: ASCII, and not long."""
    plain = unicodedata.normalize("NFKD", name)
    safe = re.sub(r"[^\w.]+", "-", plain, flags=re.ASCII).strip("-.") or "unnamed"
    if not name.isascii():  # what is left may be no name, or another's
        safe = f"{safe[: _SLUG - 5]}-{hashlib.sha256(name.encode()).hexdigest()[:4]}"
    return safe[:_SLUG]


Kind = TypeVar("Kind", bound=Scores)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record and where it was read from."""

    path: Path
    data: Mapping[str, Any]

    @property
    def method_label(self) -> str:
        """The method as a table names it, with what it was trained on."""
        cell = self.data["cell"]
        trained_on = f" ({cell['trained_on']})" if cell["trained_on"] else ""
        label = f" · {cell['label']}" if cell.get("label") else ""
        return f"{cell['method']}{trained_on}{label}"

    @property
    def whole(self) -> bool:
        """Whether it has metrics, and of all queries and pictures."""
        return bool(self.data["metrics"]) and not self.data["run"]["partial"]

    @property
    def cell(self) -> Cell:
        """What it is the record of."""
        return Cell(**self.data["cell"])

    @property
    def checkpoint_label(self) -> str:
        """The method's weights as a table names them: their file and digits of their sha256."""
        name = str(self.data.get("checkpoint", {}).get("name", ""))
        return " ".join(filter(None, (name, (self.data["cell"]["checkpoint"] or "none")[:8])))

    def per_query(self) -> PerQuery:
        """The per-query data beside the record.

        Raises:
            CorruptData: it is missing, altered or unreadable.
        """
        return self._read(PerQuery)

    @cached_property
    def scores(self) -> Scores:
        """Of the per-query data what most readers want: a fifth of its bytes.

        Raises:
            CorruptData: as `per_query`.
        """
        return self._read(Scores)

    def _read(self, kind: type[Kind]) -> Kind:
        path = self.path.parent / check_inside(self.data["per_query"]["file"], str(self.path))
        try:
            if sha256_of_file(path) != self.data["per_query"]["sha256"]:
                raise CorruptData(f"{path} is not the file that {self.path} was written with")
            with np.load(path, allow_pickle=False) as arrays:
                if unknown := set(arrays.files) - {f.name for f in fields(PerQuery)}:
                    raise ValueError(f"{min(unknown)} is not known")
                known = [f.name for f in fields(kind) if f.name in arrays.files]
                found = kind(**{name: arrays[name] for name in known})
        except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise CorruptData(f"{path} can't be read ({error}); run the cell again") from error
        if wrong := found.find_fault():
            raise CorruptData(f"{path}: {wrong}; run the cell again")
        return found


def write_record(root: Path, cell: Cell, data: Mapping[str, Any], per_query: PerQuery) -> Record:
    """Writes the per-query data and the record that names it: both, or neither."""
    path = root / cell.path
    arrays = path.with_suffix(".npz")
    with written_whole(path) as json_file, written_whole(arrays) as arrays_file:
        np.savez_compressed(arrays_file, **asdict(per_query))
        named = {"file": arrays.name, "sha256": sha256_of_file(arrays_file)}
        whole = {"schema": SCHEMA, "cell": asdict(cell), **data, "per_query": named}
        text = json.dumps(whole, indent=2, sort_keys=True, allow_nan=False)
        json_file.write_text(f"{text}\n", encoding="utf-8")
    return Record(path=path, data=whole)


def write_submission(record: Path, files: Mapping[str, str]) -> list[str]:
    """Writes what a server takes below the record's folder, and gives the paths from there."""
    names = [f"submissions/{record.stem}--{name}" for name in files]
    for name, content in zip(names, files.values(), strict=True):
        with written_whole(record.parent / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return names


def read_record(path: Path) -> Record:
    """Reads one record.

    Raises:
        CorruptData: it is not valid JSON, of another schema, misses a field, or has a value of
            another kind; names the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise CorruptData(f"{path} is not a readable record ({error}); run it again") from error
    return parse_record(text, path)


def parse_record(text: str, path: Path) -> Record:
    """A record from its text; `path` names it. Raises what `read_record` does."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{path} is not a readable record ({error}); run it again") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise CorruptData(f"{path} must be a record of schema {SCHEMA}; run the cell again")
    if missing := [name for name in _REQUIRED if name not in data]:
        raise CorruptData(f"{path} lacks {', '.join(missing)}; run the cell again")
    wrong = find_wrong_field(data, RECORD)
    lacking = [
        name
        for name in ("run.partial", "per_query.file", "per_query.sha256")
        if wrong is None and find_field(data, name) is None
    ]
    if wrong or lacking:
        why = wrong or f"lacks {lacking[0]}"
        raise CorruptData(f"{path} was edited or cut: {why}; run the cell again")
    try:
        Cell(**data["cell"])
    except TypeError as error:
        raise CorruptData(f"{path} was edited or cut ({error}); run the cell again") from error
    return Record(path=path, data=data)


def read_records(root: Path) -> Iterator[Record]:
    """Every whole record below `root/TASK/`, by path; partial and unlabelled ones are left out."""
    for path in sorted(root.glob("*/[!.]*.json")):
        record = read_record(path)
        if record.whole:
            yield record


def labels(records: Sequence[Record]) -> list[str]:
    """A name for each record, different from the others': the shortest that tells them apart."""
    found = [record.method_label for record in records]
    for more in (_backbone, _seed, _checkpoint, lambda record: record.path.stem):
        values: dict[str, set[str]] = {}
        for label, record in zip(found, records, strict=True):
            values.setdefault(label, set()).add(more(record))
        found = [
            f"{label}, {more(record)}" if len(values[label]) > 1 else label
            for label, record in zip(found, records, strict=True)
        ]
    return found


def _backbone(record: Record) -> str:
    return str(record.data["cell"]["backbone"])


def _seed(record: Record) -> str:
    return f"seed {record.data['cell']['seed']}"


def _checkpoint(record: Record) -> str:
    return f"weights {record.checkpoint_label}"


def check_writable(root: Path) -> None:
    """Finds out before the work whether records can be written.

    Raises:
        UsageError: they can't.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UsageError(
            f"can't write into {root}: {error.strerror}; choose another --output"
        ) from error
