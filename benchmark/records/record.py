"""Records: one JSON file a cell, with its per-query data beside it, written whole or not at all."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from cirbench.benchmark.api.per_query import ADDED_LATER, PerQuery, RankedScores, Scores
from cirbench.benchmark.records.fields import ArraysFile, Body
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.files import sha256_of_file, write_whole
from cirbench.benchmark.runtime.paths import check_inside

SCHEMA = 1
MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Older schema → a function from its JSON to the next schema's. An added field needs none."""

Kind = TypeVar("Kind", bound=Scores)


@dataclass(frozen=True, kw_only=True)
class _Stored(Body):
    """A record as its file holds it."""

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False)

    per_query: ArraysFile


_STORED = TypeAdapter(_Stored)


@dataclass(frozen=True, kw_only=True)
class Record(_Stored):
    """A record and where it was read from."""

    path: Path

    @property
    def method_label(self) -> str:
        """The method as a table names it, with what it was trained on."""
        trained_on = f" ({self.cell.trained_on})" if self.cell.trained_on else ""
        label = f" · {self.cell.label}" if self.cell.label else ""
        tier = f" ({self.tier})" if self.imported else ""
        return f"{self.cell.method}{trained_on}{tier}{label}"

    @property
    def seed_label(self) -> str:
        """The seed as a table names it; nothing for the first."""
        return f"seed {self.cell.seed}" if self.cell.seed else ""

    @property
    def whole(self) -> bool:
        """Whether it has metrics, and of all queries and pictures."""
        return bool(self.metrics) and not self.run.partial

    @property
    def averages(self) -> Mapping[str, Sequence[str]]:
        """Average name → the groups whose plain mean it is."""
        return self.protocol.averages_over(self.groups)

    @property
    def checkpoint_label(self) -> str:
        """The method's weights as a table names them: their file and digits of their sha256."""
        name = self.checkpoint.name if self.checkpoint else ""
        return " ".join(filter(None, (name, (self.cell.checkpoint or "none")[:8])))

    def to_json(self) -> dict[str, Any]:
        """Give the record as plain data, as its file has it; a part that is absent has no key."""
        absent = {f.name for f in fields(self) if getattr(self, f.name) == f.default}
        data = {name: v for name, v in asdict(self).items() if name not in {*absent, "path"}}
        data["protocol"] = {**self.protocol.as_dict(), "hash": self.protocol.hash}
        if self.checkpoint and self.checkpoint.released is None:
            del data["checkpoint"]["released"]
        return {"schema": SCHEMA, **data}

    def read_per_query(self) -> PerQuery:
        """Read the per-query data beside the record.

        Raises:
            CorruptData: it is missing, altered or unreadable.
        """
        return self._read(PerQuery)

    @cached_property
    def scores(self) -> Scores:
        """The part of the per-query data that most readers want, a fifth of its bytes.

        Raises:
            CorruptData: as `read_per_query`.
        """
        return self._read(Scores)

    def read_first_ranks(self) -> NDArray[np.int64]:
        """Read (Q,) the rank of each query's best-ranked positive, 0 where it has none.

        Raises:
            CorruptData: as `read_per_query`.
        """
        return self._read(RankedScores).first_rank

    @cached_property
    def identity(self) -> tuple[object, ...]:
        """All that decides what its per-query data comes to."""
        return self.per_query.sha256, self.protocol.hash, tuple(self.groups)

    def check_arrays(self) -> Path:
        """Check that the per-query data is what the record was written with, and give its file.

        Raises:
            CorruptData: it is missing or altered.
        """
        path = self.path.parent / check_inside(self.per_query.file, str(self.path))
        try:
            if sha256_of_file(path) != self.per_query.sha256:
                raise CorruptData(f"{path} is not the file that {self.path} was written with")
        except OSError as error:
            raise CorruptData(f"{path} can't be read ({error}); run the cell again") from error
        return path

    def _read(self, kind: type[Kind]) -> Kind:
        path = self.check_arrays()
        try:
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


def write_record(root: Path, body: Body, arrays: PerQuery) -> Record:
    """Write the per-query data and the record that names it: both, or neither."""
    path = root / body.home
    beside = path.with_suffix(".npz")
    with write_whole(path) as json_file, write_whole(beside) as arrays_file:
        there = {k: v for k, v in asdict(arrays).items() if v.size or k not in ADDED_LATER}
        np.savez_compressed(arrays_file, **there)
        named = ArraysFile(file=beside.name, sha256=sha256_of_file(arrays_file))
        record = Record(path=path, per_query=named, **_fields_of(body))
        text = json.dumps(record.to_json(), indent=2, sort_keys=True, allow_nan=False)
        json_file.write_text(f"{text}\n", encoding="utf-8")
    return record


def _fields_of(body: Body) -> dict[str, Any]:
    return {f.name: getattr(body, f.name) for f in fields(Body)}


def write_submission(record: Path, files: Mapping[str, str]) -> list[str]:
    """Write what a server takes below the record's folder; return the paths from there."""
    names = [f"submissions/{record.stem}--{name}" for name in files]
    for name, content in zip(names, files.values(), strict=True):
        with write_whole(record.parent / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return names


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        CorruptData: it is not valid JSON, of another schema, lacks a field, or has a value of
            another kind; names the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise CorruptData(f"{path} is not a readable record ({error}); run it again") from error
    return parse_record(text, path)


def parse_record(text: str, path: Path) -> Record:
    """Parse a record's text; `path` names it. Raises what `read_record` does."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{path} is not a readable record ({error}); run it again") from error
    if not isinstance(data, dict):
        raise CorruptData(f"{path} must be a record; run the cell again")
    if data.get("schema") != SCHEMA:
        data = _migrate(data, path)
        text = json.dumps(data)
    try:
        stored = _STORED.validate_json(text)
    except ValidationError as error:
        why = _explain(error)
        raise CorruptData(f"{path} was edited or cut: {why}; run the cell again") from error
    if (said := data["protocol"].get("hash")) != stored.protocol.hash:
        raise CorruptData(
            f"{path} was edited: protocol.hash is {said!r}, and {stored.protocol.hash!r} by the "
            f"protocol's fields; run the cell again"
        )
    return Record(path=path, per_query=stored.per_query, **_fields_of(stored))


def _migrate(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Bring a record's JSON to the current schema.

    Raises:
        CorruptData: it is of a newer schema, or of one that is not known.
    """
    while (schema := data.get("schema")) != SCHEMA:
        if type(schema) is int and schema > SCHEMA:
            raise CorruptData(
                f"{path} is a record of schema {schema}, written by a later cirbench; upgrade "
                f"cirbench to read it (this one reads up to {SCHEMA})"
            )
        if type(schema) is not int or schema not in MIGRATIONS:
            raise CorruptData(f"{path} must be a record of schema {SCHEMA}; run the cell again")
        data = MIGRATIONS[schema](data)
    return data


def _explain(error: ValidationError) -> str:
    """Name what a record lacks, or else the first field that is wrong."""
    found = error.errors(include_url=False)
    places = [".".join(map(str, fault["loc"])) for fault in found]
    pairs = zip(found, places, strict=True)
    if lacking := [place for fault, place in pairs if fault["type"] == "missing"]:
        return f"lacks {', '.join(lacking)}"
    rule = found[0]["msg"].replace("Input should be", "must be")
    return f"{places[0]} {rule}, got {found[0]['input']!r:.60}" if places[0] else rule


def read_records(root: Path) -> Iterator[Record]:
    """Read every whole record below `root/TASK/`, by path, but no partial or unlabelled one."""
    for path in sorted(root.glob("*/[!.]*.json")):
        record = read_record(path)
        if record.whole:
            yield record


def label_records(records: Sequence[Record]) -> list[str]:
    """Give each record the shortest name that tells it from the others."""
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
    return record.cell.backbone


def _seed(record: Record) -> str:
    return f"seed {record.cell.seed}"


def _checkpoint(record: Record) -> str:
    return f"weights {record.checkpoint_label}"


def check_writable(root: Path) -> None:
    """Check before the work that records can be written.

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
