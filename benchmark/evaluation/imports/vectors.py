"""Vectors that were computed elsewhere, ranked here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cirbench.benchmark.data.vector_files import Vectors, read_vectors
from cirbench.benchmark.evaluation.imports.ids import check_ids
from cirbench.benchmark.evaluation.imports.record import ImportOutcome
from cirbench.benchmark.evaluation.plan import Request, plan_import
from cirbench.benchmark.evaluation.record import Clock
from cirbench.benchmark.ranking.groups import rank_queries
from cirbench.benchmark.records.fields import Imported
from cirbench.benchmark.records.record import Record, check_writable
from cirbench.benchmark.runtime.paths import to_text
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.scoring.summary import find_depth

METHODS = {
    "queries": "vectors",
    "reference": "vectors:image-only",
    "text": "vectors:text-only",
}
"""Part of the file → what tables call its record."""
_UNIT = 1e-3


def import_vectors(
    request: Request, path: Path, producer: str, reporter: Reporter
) -> Iterator[Record]:
    """Rank the queries of a file against its gallery; its references and texts alone as well.

    Args:
        producer: who or what made them, in a person's words.

    Raises:
        UsageError, MissingData, CorruptData: as `plan_import` and `read_vectors`; or the ids are
            not the task's. Nothing is written then.
    """
    plan, clock = plan_import(request), Clock()
    check_writable(plan.output)
    with clock.stage("read"):
        found = read_vectors(path)
        asked = [query.id for query in plan.data.queries]
        names = {"gallery": [ref.id for ref in plan.data.gallery]}
        names |= dict.fromkeys(METHODS, asked)
        ordered = {
            name: _normalise(_arrange(part, names[name], f"{to_text(path)}, {name}"), name)
            for name, part in found.parts.items()
        }
    gallery, told_of_gallery = ordered.pop("gallery")
    for name, (vectors, told) in ordered.items():
        own_clock = Clock(dict(clock.seconds))
        with own_clock.stage("rank"), torch.inference_mode():
            depth = find_depth(plan.protocol)
            ranking = rank_queries(plan.data, vectors.to(plan.device), gallery, depth)
        remarks = (*told_of_gallery, *told)
        for remark in remarks:
            reporter.say(f"{METHODS[name]}: {remark}")
        yield ImportOutcome(
            plan=plan,
            method=METHODS[name],
            source=Imported(
                kind="vectors", files=found.files, producer=producer, normalised=not remarks
            ),
            ranking=ranking,
            remarks=remarks,
            clock=own_clock,
        ).write(reporter)


def _arrange(part: Vectors, wanted: Sequence[str], origin: str) -> Tensor:
    """(N, C) vectors in the order of ids, of which a gallery may name one twice."""
    check_ids(part.ids, dict.fromkeys(wanted), origin)
    place = {name: row for row, name in enumerate(part.ids)}
    return part.values[torch.tensor([place[name] for name in wanted], dtype=torch.long)]


def _normalise(vectors: Tensor, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Unit vectors, and what is said where they were none."""
    norms = vectors.norm(dim=1)
    if bool(((norms - 1).abs() < _UNIT).all()):
        return vectors, ()
    return normalize(vectors, dim=1), (
        f"the vectors of {name} were not of unit length (norms {float(norms.min()):.4g} to "
        f"{float(norms.max()):.4g}), and were normalised",
    )
