"""TREC: a qrels file of each board, and a run file of each of its records.

As trec_eval and ir_measures read them. Two things of the formats decide how they are written:

- Fields end at whitespace. So whitespace, and the % of its code, is written as in addresses (%20),
  and an id that stands for a second picture or query gets %#2.
- Readers order a run by its scores in single precision, and equal ones by id. So a score that is
  not below the one before it is written as the next smaller number, and the order stays ours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.export.answers import find_answers
from cirbench.benchmark.records.fields import slug
from cirbench.benchmark.records.record import Record
from cirbench.benchmark.runtime.files import write_whole

QRELS = "qrels.txt"


def write_trec(boards: Sequence[Board], folder: Path, data_root: Path | None) -> Iterator[Path]:
    """Write a folder a board, and yield each file's path.

    Raises:
        UsageError, MissingData, CorruptData: as `find_answers`.
    """
    for board in boards:
        answers = find_answers(board, data_root)
        home = folder / slug(board.first.task_label) / board.stem
        yield _write(home / QRELS, format_qrels(board.per_query[0], answers))
        for record, arrays in zip(board.records, board.per_query, strict=True):
            yield _write(home / f"{record.home.stem}.run", format_run(arrays, make_tag(record)))
        vars(board).pop("per_query")  # what the board has cached; a large task's is gigabytes


def make_tag(record: Record) -> str:
    """Name a run as tables name it, which says of made data that it is, and apart from others."""
    digest = record.home.stem.rpartition("--")[2]
    return f"{slug(record.task_label)}--{slug(record.method_label)}--{digest}"


def format_qrels(arrays: PerQuery, answers: Sequence[Sequence[int]]) -> Iterator[str]:
    """Give the lines of each query's positives.

    A query without any has one line that says what does not answer it, so that readers count it.
    """
    documents = make_tokens(arrays.gallery.tolist())
    for query, rows in zip(make_tokens(arrays.query.tolist()), answers, strict=True):
        lines = [f"{query} 0 {documents[row]} 1\n" for row in rows]
        yield "".join(lines or [f"{query} 0 {documents[0]} 0\n"])


def format_run(arrays: PerQuery, tag: str) -> Iterator[str]:
    """Give the lines of each query's ranking, as far as the record has it."""
    documents = make_tokens(arrays.gallery.tolist())
    queries = make_tokens(arrays.query.tolist())
    scores = make_falling(arrays.similarity)
    for query, rows, own in zip(queries, arrays.top.tolist(), scores.tolist(), strict=True):
        yield "".join(
            f"{query} Q0 {documents[row]} {rank} {score:.9g} {tag}\n"
            for rank, (row, score) in enumerate(zip(rows, own, strict=True), start=1)
            if row >= 0
        )


def make_tokens(names: Sequence[str]) -> list[str]:
    """Make each name one field that no other name has."""
    seen: Counter[str] = Counter()
    tokens = []
    for name in names:
        token = re.sub(r"[\s%\0\ud800-\udfff]", _quote, name) or "%"
        seen[token] += 1
        tokens.append(token if seen[token] == 1 else f"{token}%#{seen[token]}")
    return tokens


def _quote(found: re.Match[str]) -> str:
    return quote(found[0], errors="surrogatepass")  # half a character, of a name that is no UTF-8


def make_falling(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lower each of (Q, K) scores that is not below the one before it, by as little as can be."""
    falling = scores.astype(np.float32)
    for k in range(1, falling.shape[1]):
        below = np.nextafter(falling[:, k - 1], np.float32(-np.inf))
        falling[:, k] = np.minimum(falling[:, k], below)
    return falling


def _write(path: Path, lines: Iterable[str]) -> Path:
    with write_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as to:
        to.writelines(lines)
    return path
