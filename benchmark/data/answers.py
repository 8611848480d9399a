"""Answers to a task's queries as people send them to a server, or as TREC has them.

Three layouts are told apart by what is in the file: CIRR's two files (pair id → names, with
`version` and `metric` beside the pairs), CIRCO's (query id → image ids), and a TREC run, whose
lines are `query Q0 name rank score tag`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.files import sha256_of_file
from cirbench.benchmark.runtime.parsing import read_json, read_text
from cirbench.benchmark.runtime.paths import to_text

CIRR, CIRR_SUBSET, CIRCO, TREC = "CIRR recall", "CIRR subset recall", "CIRCO", "TREC run"
_METRICS = {"recall": CIRR, "recall_subset": CIRR_SUBSET}


@dataclass(frozen=True, kw_only=True)
class AnswerFile:
    """What a file answers.

    Attributes:
        kind: which layout it has.
        answers: query id → names, best first; of a TREC run by score, as trec_eval reads it, and
            equal ones by their rank in the file.
        scores: the same for a TREC run's scores; empty where the layout has none.
        misnumbered: queries of a TREC run whose ranks contradict its scores.
    """

    path: Path
    sha256: str
    kind: str
    answers: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    misnumbered: tuple[str, ...] = ()


def read_answers(path: Path) -> AnswerFile:
    """Read a file in one of the three layouts.

    Raises:
        MissingData: it can't be read.
        CorruptData: it has none of them; names the query or the line.
    """
    if read_text(path).lstrip().startswith(("{", "[")):
        kind, answers = _read_object(path)
        return AnswerFile(path=path, sha256=sha256_of_file(path), kind=kind, answers=answers)
    return _read_trec(path)


def _read_object(path: Path) -> tuple[str, dict[str, tuple[str, ...]]]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise CorruptData(f"{to_text(path)} must be an object of query ids and their answers")
    kind = CIRCO
    if "metric" in found or "version" in found:
        metric = found.pop("metric", None)
        found.pop("version", None)
        if metric not in _METRICS:
            raise CorruptData(
                f"{to_text(path)}: metric must be recall or recall_subset, got {metric!r:.40}"
            )
        kind = _METRICS[metric]
    return kind, {query: _check_answer(path, query, names) for query, names in found.items()}


def _check_answer(path: Path, query: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(type(name) in (str, int) for name in names):
        raise CorruptData(f"{to_text(path)}, query {query}: an answer must be a list of names")
    return tuple(map(str, names))


def _read_trec(path: Path) -> AnswerFile:
    rows: dict[str, list[tuple[float, int, str]]] = {}
    for query, row in _read_lines(path):
        rows.setdefault(query, []).append(row)
    if not rows:
        raise CorruptData(f"{to_text(path)} must hold answers, got an empty file")
    ordered = {query: sorted(own, key=lambda row: (-row[0], row[1])) for query, own in rows.items()}
    return AnswerFile(
        path=path,
        sha256=sha256_of_file(path),
        kind=TREC,
        answers={query: tuple(name for _, _, name in own) for query, own in ordered.items()},
        scores={query: tuple(score for score, _, _ in own) for query, own in ordered.items()},
        misnumbered=tuple(
            query for query, own in ordered.items() if own != sorted(own, key=lambda row: row[1])
        ),
    )


def _read_lines(path: Path) -> Iterator[tuple[str, tuple[float, int, str]]]:
    """Each line's query, and its score, rank and name."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            query, _, name, rank, score, _ = fields
            row = (float(score), int(rank), name)
        except ValueError as error:
            raise CorruptData(
                f"{to_text(path)}, line {number} must be `query Q0 name rank score tag`, got "
                f"{line!r:.80}"
            ) from error
        if not math.isfinite(row[0]):
            raise CorruptData(f"{to_text(path)}, line {number}: the score must be finite")
        yield query, row


def strip_zeros(name: str) -> str:
    """A number without leading zeros, as some write ids that others pad; else the name itself."""
    return str(int(name)) if re.fullmatch("[0-9]+", name) else name
