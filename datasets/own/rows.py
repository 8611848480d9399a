"""Rows of queries: JSON Lines, CSV, JSON or tables, in the layouts that people have.

Whatever the file and the layout, the same rows come of them. A layout is told by its columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.data.annotations import check_fields
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.files import check_is_file, sha256_of_file
from cirbench.benchmark.runtime.hints import suggest
from cirbench.benchmark.runtime.parsing import read_json, read_json_lines, read_table
from cirbench.benchmark.runtime.paths import to_text
from cirbench.datasets.fashion_iq import make_caption_fields, make_wordings
from cirbench.datasets.own.description import CORPUS
from cirbench.datasets.own.tables import Columns, find_tables

LIST_SEPARATOR = "|"
"""Between the names in one cell of a CSV file."""
Written = Mapping[str, Any]
"""A row as its file has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A query or a training triplet by the names of its pictures.

    Attributes:
        origin: where it is written, for errors.
        id: empty where the file gives none.
        target: the picture that the text was written for, where the targets are more.
        members: the image set of subset metrics.
        captions: wordings of the change.
        fields: what templates speak of, for each order of the captions; the first is asked.
        picture: the reference itself, where it is in the row and not in the gallery.
    """

    origin: str
    id: str
    reference: str
    targets: tuple[str, ...]
    target: str = ""
    group: str = ""
    members: tuple[str, ...] = ()
    captions: tuple[str, ...]
    fields: tuple[Mapping[str, str], ...]
    picture: ImageRef | None = None


def read_all(files: Mapping[str, Path], extra: Sequence[str]) -> list[Row]:
    """The rows of a split's files, by group.

    Args:
        extra: further columns of texts that templates speak of.

    Raises:
        MissingData: a file is not there, or has no row.
        UsageError: it is of no kind that is read.
        CorruptData: a row lacks a field or has one too many, or one is of another kind; the
            message names file, line and field.
    """
    rows: list[Row] = []
    for group, path in files.items():
        found = list(_read_file(path, extra))
        if not found:
            raise MissingData(f"no queries in {to_text(path)}; write one a line")
        for number, row in enumerate(found, start=1):
            rows.append(_complete(row, group, number))
    first: dict[str, Row] = {}
    for row in rows:
        if first.setdefault(row.id, row) is not row:
            raise CorruptData(
                f"{row.origin}: each query must have an id of its own, got {row.id!r} as in "
                f"{first[row.id].origin}"
            )
    return rows


def _complete(row: Row, group: str, number: int) -> Row:
    """Give a row the id and the group that its file leaves to us."""
    own = group or row.group or "all"
    name = row.id or (f"{group}/{number}" if group else str(number))
    return replace(row, id=name, group=own)


def hash_files(files: Mapping[str, Path]) -> dict[str, str]:
    """Group and name of each file → its sha256."""
    return {
        "/".join(filter(None, (group, path.name))): sha256_of_file(path)
        for group, path in files.items()
    }


def hash_rows(files: Mapping[str, Path], rows: Iterable[Row]) -> dict[str, str]:
    """The same; of a table it is that of its rows, since pictures lie in it, too."""
    if any(find_tables(path) or path.is_dir() for path in files.values()):
        lines = (
            f"{row.id}|{row.reference}|{row.targets}|{row.group}|{row.members}|"
            f"{sorted(row.fields[0].items())}\n"
            for row in rows
        )
        return {"queries": hashlib.sha256("".join(lines).encode()).hexdigest()}
    return hash_files(files)


def _read_file(path: Path, extra: Sequence[str]) -> Iterator[Row]:
    if path.is_dir() and all((path / name).is_dir() for name in CORPUS):
        yield from _read_corpus(path)
    elif tables := find_tables(path):
        yield from _read_tables(path, tables)
    else:
        check_is_file(path, "file of queries")
        yield from _convert(list(_read_text_file(path)), extra)


def _read_text_file(path: Path) -> Iterator[tuple[str, Written]]:
    ending = path.suffix.lower()
    if ending == ".jsonl":
        yield from read_json_lines(path)
    elif ending in (".csv", ".tsv"):
        for number, row in enumerate(read_table(path, None), start=1):
            yield f"{to_text(path)}, row {number}", _read_cells(row)
    elif ending == ".json":
        content = read_json(path)
        if not isinstance(content, list):
            raise CorruptData(f"{to_text(path)} must be a list of rows, got {content!r:.40}")
        for number, row in enumerate(content, start=1):
            yield f"{to_text(path)}, row {number}", row
    else:
        raise UsageError(
            f"queries must be in a .jsonl, .csv, .tsv, .json or .parquet file, got {to_text(path)}"
        )


def _read_cells(row: Mapping[str, str]) -> Written:
    """A row of a CSV file, in which an empty cell is a field that it can do without."""
    there = {name: cell for name, cell in row.items() if cell or name not in _OPTIONAL}
    return {
        name: [part.strip() for part in cell.split(LIST_SEPARATOR)] if name in _LISTS else cell
        for name, cell in there.items()
    }


# --- layouts of text files -----------------------------------------------------------------------


def _convert(rows: Sequence[tuple[str, Written]], extra: Sequence[str]) -> Iterator[Row]:
    """Rows of the layout that the first one is of; a row of none is told what ours has."""
    if not rows:
        return
    _, first = rows[0]
    names = first.keys() if isinstance(first, dict) else ()
    fitting = (make for told_by, make in _LAYOUTS.items() if told_by <= set(names))
    make = next(fitting, partial(_make_plain, extra=extra))
    for origin, row in rows:
        yield make(origin, row)


_TEXTS = ("id", "reference", "text", "target", "group")
_LISTS = {"targets", "members"}
_OPTIONAL = {"id", "target", "group", *_LISTS}


def _make_plain(origin: str, row: Written, extra: Sequence[str]) -> Row:
    """Ours: reference, text, target or targets; id, group and members where there are any."""
    known = (*_TEXTS, *sorted(_LISTS), *extra)
    if isinstance(row, dict) and type(row.get("id")) is int:
        row = {**row, "id": str(row["id"])}
    if unknown := [name for name in check_fields(row, {}, origin) if name not in known]:
        raise CorruptData(
            f"{origin}: unknown field `{unknown[0]}`; {suggest(unknown[0], known)} (a further "
            f"column must be listed as fields = [{unknown[0]!r}] in the task's file)"
        )
    present = [name for name in (*_TEXTS, *_LISTS) if name in row]
    needed = ["reference", "text", *extra, *([] if "targets" in row else ["target"])]
    wanted = dict.fromkeys((*present, *needed))
    kinds: dict[str, type] = {name: list if name in _LISTS else str for name in wanted}
    check_fields(row, kinds, origin)
    for name in _LISTS & row.keys():
        if not row[name] or not all(isinstance(one, str) and one for one in row[name]):
            raise CorruptData(
                f"{origin}: `{name}` must list names of pictures, got {row[name]!r:.40}"
            )
    target = row.get("target", "")
    targets = tuple(row.get("targets", [target]))
    if target and target not in targets:
        raise CorruptData(f"{origin}: `targets` must name `target`, {target!r}, too")
    fields = {"text": row["text"], **{name: row[name] for name in extra}}
    return Row(
        origin=origin,
        id=row.get("id", ""),
        reference=row["reference"],
        targets=targets,
        target=target,
        group=row.get("group", ""),
        members=tuple(row.get("members", ())),
        captions=(row["text"],),
        fields=(fields,),
    )


def _make_cirr(origin: str, row: Written) -> Row:
    """CIRR's: pairid, reference, target_hard, caption, and an img_set with its members."""
    kinds = {"pairid": int, "reference": str, "target_hard": str, "caption": str}
    check_fields(row, kinds, origin)
    shown = row.get("img_set", {})
    members = shown.get("members", []) if isinstance(shown, dict) else None
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        raise CorruptData(f"{origin}: `img_set` must have `members`, a list, got {shown!r:.40}")
    return _make_row(
        origin, row["reference"], row["target_hard"], [row["caption"]], str(row["pairid"]), members
    )


def _make_fashion_iq(origin: str, row: Written) -> Row:
    """Fashion-IQ's: candidate, target, and two captions."""
    check_fields(row, {"candidate": str, "target": str, "captions": list}, origin)
    return _make_row(origin, row["candidate"], row["target"], row["captions"])


_LAYOUTS: Mapping[frozenset[str], Callable[[str, Written], Row]] = {
    frozenset({"reference", "caption"}): _make_cirr,
    frozenset({"candidate", "captions"}): _make_fashion_iq,
}
"""Columns that tell a layout → what makes its rows."""


def _make_row(
    origin: str,
    reference: str,
    target: str,
    captions: Sequence[Any],
    name: str = "",
    members: Sequence[str] = (),
    group: str = "",
    picture: ImageRef | None = None,
) -> Row:
    if not captions or not all(isinstance(caption, str) for caption in captions):
        raise CorruptData(f"{origin}: the captions must be texts, got {captions!r:.40}")
    wordings, fields = _word(captions)
    return Row(
        origin=origin,
        id=name,
        reference=reference,
        targets=(target,),
        target=target,
        group=group,
        members=tuple(members),
        captions=wordings,
        fields=fields,
        picture=picture,
    )


def _word(captions: Sequence[str]) -> tuple[tuple[str, ...], tuple[Mapping[str, str], ...]]:
    """Wordings for training, and the fields of templates in each order of two captions."""
    if len(captions) != 2:
        text = " and ".join(captions)
        return (text,), ({"text": text},)
    orders = (captions, captions[::-1])
    fields = tuple(
        {"text": " and ".join(map(str.strip, order)), **make_caption_fields(order)}
        for order in orders
    )
    return make_wordings(captions), fields


# --- layouts of tables ---------------------------------------------------------------------------


def _read_tables(path: Path, tables: Sequence[Path]) -> Iterator[Row]:
    """`royokong/cirr_val` (pairid, candidate_id, target_id, caption) and `royokong/fashioniq_val`
    (category, candidate, target_id, caption: two)."""
    table = Columns(tables)
    known = [name for name in table.names if not table.is_images(name)]
    images = [name for name in table.names if table.is_images(name)]
    lacking = [name for name in ("target_id", "caption") if name not in known]
    if lacking or not ("candidate_id" in known or images):
        raise CorruptData(
            f"{to_text(path)} must have the columns target_id, caption, and candidate_id or an "
            f"image of the reference, got {', '.join(table.names)}"
        )
    for (origin, row), at in zip(table.read_rows(known), table.locate(), strict=True):
        captions = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
        own = None
        if "candidate_id" not in row:
            own = _make_own_reference(table, images[0], at)
        yield _make_row(
            origin,
            own.id if own else str(row["candidate_id"]),
            str(row["target_id"]),
            captions,
            str(row.get("pairid", "")),
            group=str(row.get("category", "")),
            picture=own,
        )


def _read_corpus(folder: Path) -> Iterator[Row]:
    """MTEB's tables: queries (id, text, image), and qrels (query-id, corpus-id, score)."""
    queries, qrels = (Columns(find_tables(folder / name)) for name in CORPUS[1:])
    _need_columns(folder / CORPUS[1], queries, ("id", "text", "image"))
    _need_columns(folder / CORPUS[2], qrels, ("query-id", "corpus-id", "score"))
    answers: dict[str, list[str]] = {}
    for _, row in qrels.read_rows(("query-id", "corpus-id", "score")):
        if row["score"] > 0:
            answers.setdefault(str(row["query-id"]), []).append(str(row["corpus-id"]))
    for (origin, row), at in zip(queries.read_rows(("id", "text")), queries.locate(), strict=True):
        name, own = str(row["id"]), _make_own_reference(queries, "image", at)
        if name not in answers:
            raise CorruptData(f"{origin}: query {name} must have an answer in {CORPUS[2]}")
        wordings, fields = _word([row["text"]])
        yield Row(
            origin=origin,
            id=name,
            reference=own.id,
            targets=tuple(answers[name]),
            captions=wordings,
            fields=fields,
            picture=own,
        )


def _need_columns(path: Path, table: Columns, wanted: Sequence[str]) -> None:
    if not set(wanted) <= set(table.names):
        raise CorruptData(
            f"{to_text(path)} must have the columns {', '.join(wanted)}, got "
            f"{', '.join(table.names)}"
        )


def _make_own_reference(table: Columns, column: str, at: tuple[int, int, int]) -> ImageRef:
    """A reference that is in its row alone, named by its content: one picture, one name."""
    read = partial(table.read_image, column, at)
    return ImageRef(id=f"reference/{hashlib.sha256(read()).hexdigest()[:16]}", read=read)
