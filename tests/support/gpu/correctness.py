"""Whether a GPU gives what the CPU gives: features, ranking and metrics of the embedded task."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from unittest import mock

import numpy as np
from perf.measure import unit_vectors
from perf.towers import METHODS
from torch import Tensor
from torch.nn.functional import normalize

from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.evaluation.embed import embed
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.ranking.parts import RankRequest
from cirbench.benchmark.ranking.rank import GPU_PARTS, PART_ROWS, Ranking, rank_vectors
from cirbench.benchmark.runtime.progress import Reporter
from gpu.findings import Finding, Setting, judge

QUIET = Reporter(quiet=True)
DEPTH = 50
"""So many of the first are compared."""
TIE = 1e-5
"""Items whose scores lie so near may change places where features differ in their last digits."""
MOST_FEATURE, MOST_POINTS = 1e-4, 0.05
_COPIES = 2_000


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The emoji task by every method that has its weights.

    Attributes:
        features: (N, C) unit vectors of the pictures.
        answers: method → what each query came to.
        metrics: (method, metric) → percent, the average of the styles.
    """

    features: Tensor
    answers: Mapping[str, PerQuery]
    metrics: Mapping[tuple[str, str], float]


def check_correctness(setting: Setting) -> Iterator[Finding]:
    """Ranking of the same vectors first, then the whole way in each precision."""
    yield from check_ranking(setting)
    expected = evaluate(setting, "cpu", "fp32")
    found = {}
    for precision in setting.sizes.precisions:
        found[precision] = evaluate(setting, setting.device, precision)
        yield from compare(precision, expected, found[precision])
    # last, since a CPU may be slow in half precision
    for precision, own in found.items():
        if precision != "fp32":
            there = evaluate(setting, "cpu", precision)
            change, name = find_largest_change(there, own)
            what = (
                f"{precision}: largest change of a metric against {precision} on the CPU ({name})"
            )
            yield judge(what, change, MOST_POINTS, unit=" points", form=".3f")


def evaluate(setting: Setting, device: str, precision: str) -> Evaluated:
    """Run the emoji task, each device and precision with a store of its own."""
    folder = setting.folder / f"{device.replace(':', '-')}-{precision}"
    request = Request(
        methods=(*METHODS, "combiner"),
        task="emoji",
        device=device,
        precision=precision,
        batch_size=256,
        workers=setting.cores,
        limit=setting.sizes.emoji_queries,
        output=folder / "results",
    )
    with mock.patch.dict(os.environ, CIRBENCH_CACHE=str(folder / "cache")):
        planned = plan(request)
        backbone = load_backbone(planned.backbone, device=device, precision=precision)
        [images] = embed(planned, [backbone], QUIET)
        records = list(run(planned, QUIET))
    return Evaluated(
        features=normalize(images.values, dim=1),
        answers={record.cell.method: record.read_per_query() for record in records},
        metrics={
            (record.cell.method, metric): found.value
            for record in records
            for metric, found in record.metrics["average"].items()
        },
    )


def compare(precision: str, expected: Evaluated, found: Evaluated) -> Iterator[Finding]:
    """What a precision changes against float32 on the CPU; only float32 has targets."""
    exact = precision == "fp32"
    if exact:
        largest = (found.features - expected.features).abs().max().item()
        yield judge("fp32: largest difference in a unit vector", largest, MOST_FEATURE)
    else:
        cosine = (found.features * expected.features).sum(dim=1).min().item()
        what = f"{precision}: lowest cosine with float32's vector"
        yield Finding(what=what, value=cosine, shown=f"{cosine:.6f}")
    counts = np.zeros(4, dtype=int)
    for method, answers in expected.answers.items():
        counts += count_differences(answers, found.answers[method])
    for what, count in (
        (f"another item among the first {DEPTH}, beyond float ties", counts[1]),
        ("another first rank, fragile ones apart", counts[2]),
    ):
        share = f"{count:,} of {counts[0]:,} queries of all methods"
        yield Finding(
            what=f"{precision}: {what}",
            value=float(count),
            shown=share,
            target="0" if exact else "",
            ok=bool(count == 0) if exact else None,
        )
    yield Finding(
        what=f"{precision}: only the order of float ties",
        value=float(counts[3]),
        shown=f"{counts[3]:,} of {counts[0]:,} queries of all methods",
    )
    change, name = find_largest_change(expected, found)
    what = f"{precision}: largest change of a metric ({name})"
    judged = judge(what, change, MOST_POINTS, unit=" points", form=".3f")
    yield judged if exact else replace(judged, target="", ok=None)


def find_largest_change(expected: Evaluated, found: Evaluated) -> tuple[float, str]:
    """In points, and of which method and metric."""
    changes = {key: abs(found.metrics[key] - value) for key, value in expected.metrics.items()}
    worst = max(changes, key=lambda key: changes[key])
    return changes[worst], " ".join(worst)


def count_differences(ours: PerQuery, theirs: PerQuery) -> tuple[int, int, int, int]:
    """Count queries: all, those whose first items differ beyond ties, those whose first rank
    differs though it is not fragile, and those that differ in the order of ties alone."""
    differ = (ours.top[:, :DEPTH] != theirs.top[:, :DEPTH]).any(axis=1)
    beyond = [
        query for query in np.flatnonzero(differ).tolist() if not _only_ties(ours, theirs, query)
    ]
    moved = (ours.first_rank != theirs.first_rank) & ~ours.fragile & ~theirs.fragile
    return len(differ), len(beyond), int(moved.sum()), int(differ.sum()) - len(beyond)


def _only_ties(ours: PerQuery, theirs: PerQuery, query: int) -> bool:
    """Whether in each place stand two items that we score alike.

    An item of theirs that is not among ours scores at most what our last one does.
    """
    score = dict(zip(ours.top[query].tolist(), ours.similarity[query].tolist(), strict=True))
    last = float(ours.similarity[query, -1])
    pairs = zip(ours.top[query, :DEPTH].tolist(), theirs.top[query, :DEPTH].tolist(), strict=True)
    return all(abs(score[own] - score.get(other, last)) <= TIE for own, other in pairs)


def check_ranking(setting: Setting) -> Iterator[Finding]:
    """The same vectors ranked on both devices: every rank and tie must be the same."""
    rows = GPU_PARTS * PART_ROWS + 4_000 if setting.on_gpu else 5_000  # on a GPU in two parts
    queries, gallery, wanted = make_hard_case(rows)
    expected = rank_vectors(queries, gallery, wanted)
    asked, there = queries.to(setting.device), gallery.to(setting.device)
    places = {"on the device": there}
    if setting.on_gpu:
        places["in pinned memory"] = gallery.pin_memory()
    for place, own in places.items():
        off = list_differences(expected, rank_vectors(asked, own, wanted))
        yield Finding(
            what=f"{len(queries)} queries, {rows:,} vectors, {_COPIES:,} of them copies, removed "
            f"items, members; gallery {place}",
            value=float(len(off)),
            shown=f"differs in {', '.join(off)}" if off else "the same in every bit",
            target="the same",
            ok=not off,
        )
    tied = int(expected.tied.sum())
    yield Finding(
        what="queries of these whose first rank the gallery's order decides",
        value=float(tied),
        shown=f"{tied}",
        target="≥ 1",
        ok=tied >= 1,
    )


def make_hard_case(rows: int) -> tuple[Tensor, Tensor, RankRequest]:
    """Queries near their positives, a gallery in which many vectors stand twice, removed items."""
    rng = np.random.default_rng(0)
    gallery = unit_vectors(rows, 64, 1)
    gallery[rng.integers(rows, size=_COPIES)] = gallery[rng.integers(rows, size=_COPIES)].clone()
    own = rng.integers(rows, size=400)
    gallery[(own[::4] + 1) % rows] = gallery[own[::4]].clone()  # a rival that ties
    queries = normalize(gallery[own] + 0.5 * unit_vectors(400, 64, 2), dim=1)
    wanted = RankRequest(
        depth=DEPTH,
        positives=[[int(row)] for row in own],
        removed=[int((row + 2) % rows) if i % 2 else None for i, row in enumerate(own)],
        members=[rng.choice(rows, size=6, replace=False).tolist() for _ in own],
    )
    return queries, gallery, wanted


def list_differences(ours: Ranking, theirs: Ranking) -> list[str]:
    """The names of the arrays that are not equal in every bit."""
    return [
        part.name
        for part in fields(Ranking)
        if not np.array_equal(getattr(ours, part.name), getattr(theirs, part.name))
    ]
