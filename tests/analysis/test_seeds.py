"""Records of several seeds as one row: its numbers, where it stands, and what stays apart."""

from __future__ import annotations

import csv
import io
import json
from statistics import fmean, stdev

import numpy as np
import pytest
from making import make_body, make_cell, make_counts, make_fingerprints
from places import ROOT

from cirbench.benchmark.analysis.board_statistics import compute_statistics
from cirbench.benchmark.analysis.boards import name_row, read_boards
from cirbench.benchmark.analysis.compare import compare, find_pairs
from cirbench.benchmark.analysis.seeds import SeedMean, find_spread, merge_seeds
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.evaluation.plan import Request, plan_seeds
from cirbench.benchmark.records.fields import CheckpointFile
from cirbench.benchmark.records.record import read_records, write_record
from cirbench.benchmark.report.export import as_csv, as_latex
from cirbench.benchmark.report.markdown import format_lines, render_leaderboard
from cirbench.benchmark.report.page import make_section, render_index
from cirbench.benchmark.report.tables import make_report_tables
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.scoring.summary import summarise

PROTOCOL = EvaluationProtocol(
    name="plain",
    version=1,
    gallery="everything",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "{x}"},
    metrics=("HR@1",),
    headline="HR@1",
)
GROUPS = ("few", "many")
SIZE = 60


def store(root, method, ranks, seed=0, ids="q", towers="w", checkpoint=None, **cell):
    """A record of SIZE queries of 20 references with these first ranks of two."""
    ranks = np.array(ranks)
    hits = np.stack([ranks == 1, ranks == 2], axis=1)
    arrays = PerQuery(
        query=np.array([f"{ids}{i}" for i in range(SIZE)]),
        reference=np.array([f"r{i % 20}" for i in range(SIZE)]),
        group=np.array([GROUPS[i >= 20] for i in range(SIZE)]),
        gallery=np.array(["a", "b", "c"]),
        top=np.array([[0, 1]] * SIZE, dtype=np.int32),
        similarity=np.zeros((SIZE, 2), dtype=np.float32),
        hits=hits,
        positives=np.ones(SIZE, dtype=np.int64),
        first_rank=ranks,
        tied=np.zeros(SIZE, dtype=bool),
        metrics=np.array(PROTOCOL.metrics),
        values=100.0 * hits[:, :1],
    )
    sha = f"{seed}{method}" if checkpoint else None
    identity = make_cell(PROTOCOL, method=method, seed=seed, checkpoint=sha, **cell)
    parts = {
        "counts": make_counts(SIZE, 20, 3),
        "fingerprints": make_fingerprints(weights=towers),
        "checkpoint": checkpoint,
    }
    metrics = summarise(arrays, GROUPS, PROTOCOL)
    return write_record(root, make_body(identity, PROTOCOL, metrics, GROUPS, **parts), arrays)


def draw(seed):
    return np.random.default_rng(seed).integers(1, 4, SIZE)


@pytest.fixture
def world(tmp_path):
    """Three seeds of one method, and one of another."""
    for seed in (0, 1, 2):
        store(tmp_path, "trained", draw(seed), seed=seed)
    store(tmp_path, "plain", draw(9))
    return tmp_path


def rates(seed, rows=slice(None)):
    return 100.0 * (draw(seed) == 1)[rows]


def test_a_row_is_the_mean_over_seeds_with_their_standard_deviation(world):
    [board] = read_boards(world)
    assert len(board.records) == 4
    [row] = [row for row in board.rows if row.cell.method == "trained"]
    assert [one.cell.seed for one in row.of] == [0, 1, 2]
    few, many = slice(0, 20), slice(20, SIZE)
    by_seed = [fmean([rates(s, few).mean(), rates(s, many).mean()]) for s in (0, 1, 2)]
    found = row.metrics["average"]["HR@1"]
    assert found.value == pytest.approx(fmean(by_seed))
    assert find_spread(row, "average", "HR@1") == pytest.approx(stdev(by_seed))
    assert find_spread(board.rows[0 if board.rows[1] is row else 1], "average", "HR@1") is None
    assert row.metrics["few"]["HR@1"].value == pytest.approx(
        fmean(rates(s, few).mean() for s in (0, 1, 2))
    )


def test_the_interval_is_of_the_mean_over_references_that_are_drawn_by_hand(world):
    [board] = read_boards(world)
    [row] = [row for row in board.rows if row.cell.method == "trained"]
    values = np.mean([rates(seed) for seed in (0, 1, 2)], axis=0)
    names = sorted({f"r{i}" for i in range(20)})
    own = {name: [i for i in range(20, SIZE) if f"r{i % 20}" == name] for name in names}
    rng, drawn = np.random.default_rng(0), []
    for start in range(0, 2000, 128):
        for chosen in rng.integers(0, 20, size=(min(128, 2000 - start), 20)):
            drawn.append(values[[i for c in chosen for i in own[names[c]]]].mean())
    low, high = np.percentile(drawn, [2.5, 97.5])
    found = row.metrics["many"]["HR@1"]
    assert (found.low, found.high) == pytest.approx((low, high))


def test_curves_are_means_over_seeds(world):
    [board] = read_boards(world)
    shown = compute_statistics(board)
    [at] = [i for i, row in enumerate(board.rows) if isinstance(row, SeedMean)]
    for k, point in zip(shown.curves.at, shown.curves.values[at], strict=True):
        found = [100.0 * (draw(seed) <= k) for seed in (0, 1, 2)]
        wanted = fmean(fmean([f[:20].mean(), f[20:].mean()]) for f in found)
        assert point.value == pytest.approx(wanted)


def test_every_table_shows_one_row_with_its_spread(world):
    [board] = read_boards(world)
    [row] = [row for row in board.rows if isinstance(row, SeedMean)]
    value, sd = row.metrics["average"]["HR@1"].value, find_spread(row, "average", "HR@1")
    said = f"{value:.1f} ± {sd:.1f}"
    assert name_row(board, row)[0] == "trained (3 seeds)"
    text = render_leaderboard([board]).replace("*", "")
    [line] = [line for line in text.splitlines() if line.startswith("| trained")][:1]
    assert said in line
    assert "± is the standard deviation over seeds" in text
    assert said in format_lines(board.rows)
    assert "trained, 3 seeds" in format_lines(board.rows)
    shown = compute_statistics(board)
    table = make_report_tables(board, shown, [])[0]
    [trained, plain] = sorted(
        csv.DictReader(io.StringIO(as_csv(table))), key=lambda r: r["method"], reverse=True
    )
    assert float(trained["HR@1 sd"]) == pytest.approx(sd, abs=1e-4)
    assert plain["HR@1 sd"] == ""
    assert rf"$\pm$ {sd:.1f}" in as_latex(table)
    page = render_index([make_section(board, shown, [table], [], "gallery.html")], [])
    assert f" ± {sd:.1f}<" in page
    assert "± is the standard deviation over seeds" in page


def test_a_board_without_several_seeds_speaks_of_none(tmp_path):
    store(tmp_path, "trained", draw(0), seed=3)
    [board] = read_boards(tmp_path)
    assert board.rows == board.records
    text = render_leaderboard([board])
    assert "±" not in text
    assert "trained (seed 3)" in text
    shown = compute_statistics(board)
    assert " sd" not in as_csv(make_report_tables(board, shown, [])[0])


@pytest.mark.parametrize(
    "other",
    [{"label": "mine"}, {"trained_on": "CC3M"}, {"backbone": "large"}, {"split": "val"}],
)
def test_what_differs_in_more_than_the_seed_stays_apart(tmp_path, other):
    store(tmp_path, "m", draw(0))
    store(tmp_path, "m", draw(1), seed=1, **other)
    records = list(read_records(tmp_path))
    assert merge_seeds(records) == records


def test_two_records_of_one_seed_stay_apart_with_all_others(tmp_path):
    file = CheckpointFile(name="c.safetensors")
    store(tmp_path, "m", draw(0))
    store(tmp_path, "m", draw(1), checkpoint=file)
    store(tmp_path, "m", draw(2), seed=1, checkpoint=file)
    records = list(read_records(tmp_path))
    assert len(records) == 3
    assert merge_seeds(records) == records


def test_towers_that_were_trained_along_are_of_the_seed(tmp_path):
    for seed, towers in enumerate(("aaaa", "bbbb")):
        file = CheckpointFile(name=f"{seed}.safetensors", backbone="torchvision:resnet18")
        named = {"backbone": f"trained:tirg+{towers}", "towers": towers}
        store(tmp_path, "tirg", draw(seed), seed=seed, checkpoint=file, **named)
    [row] = merge_seeds(list(read_records(tmp_path)))
    assert len(row.of) == 2


def test_seeds_of_other_queries_are_refused(tmp_path):
    store(tmp_path, "m", draw(0))
    store(tmp_path, "m", draw(1), seed=1, ids="other")
    with pytest.raises(CorruptData, match="must have the same queries"):
        render_leaderboard(read_boards(tmp_path))


def test_a_comparison_is_of_the_means_over_seeds_query_by_query(world, bench):
    [pair] = compare(find_pairs("trained", "plain", world), groups=["many"])
    [cell] = pair.cells
    means = np.mean([rates(seed, slice(20, SIZE)) for seed in (0, 1, 2)], axis=0)
    theirs = rates(9, slice(20, SIZE))
    assert cell.a - cell.b == pytest.approx((means - theirs).mean())
    assert cell.difference.interval.value == pytest.approx((means - theirs).mean())
    assert cell.difference.wins == int((means > theirs).sum())
    assert cell.difference.ties == int((means == theirs).sum())
    by_seed = [rates(seed, slice(20, SIZE)).mean() for seed in (0, 1, 2)]
    assert (cell.a_sd, cell.b_sd) == (pytest.approx(stdev(by_seed)), None)
    code, out, _ = bench("compare", "trained", "plain", "-o", world)
    assert code == 0
    assert "A: trained, 3 seeds, tiny" in out
    assert f"{cell.a:.1f} ± {cell.a_sd:.1f}" in out
    code, out, _ = bench("compare", "trained", "plain", "-o", world, "--json")
    [told] = json.loads(out)["pairs"]
    assert [one["seed"] for one in told["a"]["seeds"]] == [0, 1, 2]
    assert "seeds" not in told["b"]


def test_files_of_two_seeds_are_compared_as_they_are_given(world):
    one, other = (
        next(str(r.path) for r in read_records(world) if (r.cell.method, r.cell.seed) == wanted)
        for wanted in (("trained", 0), ("trained", 1))
    )
    [pair] = compare(find_pairs(one, other, world))
    assert (pair.a.cell.seed, pair.b.cell.seed) == (0, 1)
    assert not isinstance(pair.a, SeedMean)


def test_each_seed_is_planned_with_its_weights_and_methods_without_weights_once(tmp_path):
    shipped = ROOT / "methods" / "weights" / "pic2word--emoji-clip.safetensors"
    for seed in (4, 5):
        (tmp_path / f"m-{seed}.safetensors").write_bytes(shipped.read_bytes())
    request = Request(
        methods=("image-only", "pic2word"),
        task="emoji",
        checkpoints={"pic2word": tmp_path / "m-{seed}.safetensors"},
        output=tmp_path,
    )
    plans = plan_seeds(request, (4, 5))
    assert [[m.name for m in one.methods] for one in plans] == [
        ["image-only", "pic2word"],
        ["pic2word"],
    ]
    assert [one.request.seed for one in plans] == [4, 5]
    assert [one.methods[-1].checkpoint.name for one in plans] == [
        "m-4.safetensors",
        "m-5.safetensors",
    ]
