"""The composition audit: its rule, its means and intervals, its labels on disk, and its pages."""

from __future__ import annotations

import json
import shutil
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
from making import make_body, make_cell, make_counts
from places import RESULTS

from cirbench.benchmark.analysis.boards import read_boards
from cirbench.benchmark.analysis.composition import Audit, audit_board, choose_pool, find_pool
from cirbench.benchmark.analysis.composition_labels import list_rows, read_labels
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.records.record import write_record
from cirbench.benchmark.report.gallery import FACETS, render_gallery
from cirbench.benchmark.report.markdown import render_leaderboard
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.scoring.summary import summarise

PROTOCOL = EvaluationProtocol(
    name="ranks",
    version=1,
    gallery="all",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "{caption}"},
    metrics=("HR@1", "HR@10"),
    headline="HR@10",
)
GROUPS = ("few", "many")
METHODS = ("image-only", "text-only", "sum", "other")
QUERIES = 60


def store(root, method, ranks, **cell):
    """A record of QUERIES queries of 20 references with these first ranks, and nothing else."""
    ranks = np.array(ranks)
    found = np.stack([(ranks > 0) & (ranks <= k) for k in (1, 10)], axis=1)
    size = len(ranks)
    arrays = PerQuery(
        query=np.array([f"q{i}" for i in range(size)]),
        reference=np.array([f"r{i % 20}" for i in range(size)]),
        group=np.array([GROUPS[i >= 10] for i in range(size)]),
        gallery=np.array(["a"]),
        top=np.zeros((size, 1), dtype=np.int32),
        similarity=np.zeros((size, 1), dtype=np.float32),
        hits=found[:, :1],
        positives=(ranks > 0).astype(np.int64),
        first_rank=ranks,
        tied=np.zeros(size, dtype=bool),
        metrics=np.array(PROTOCOL.metrics),
        values=100.0 * found,
    )
    identity = make_cell(PROTOCOL, method=method, **cell)
    metrics = summarise(arrays, GROUPS, PROTOCOL)
    body = make_body(identity, PROTOCOL, metrics, GROUPS, counts=make_counts(size, 20, 40))
    return write_record(root, body, arrays)


def draw_ranks(seed, never=0.1):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(QUERIES) < never, 0, rng.integers(1, 40, QUERIES))


@pytest.fixture
def world(tmp_path):
    """Four methods with ranks at random."""
    ranks = {method: draw_ranks(seed) for seed, method in enumerate(METHODS)}
    for method, own in ranks.items():
        store(tmp_path, method, own)
    [board] = read_boards(tmp_path)
    return tmp_path, board, ranks


def decide(ranks, i, k, composed=("sum", "other")):
    """The rule, for one query, in words of Python."""

    def finds(method):
        return 1 <= ranks[method][i] <= k

    if finds("image-only") or finds("text-only"):
        return "shortcut_solvable"
    return "composition_required" if any(map(finds, composed)) else "unresolved"


@pytest.mark.parametrize("k", [1, 5, 10])
def test_the_categories_are_those_of_the_rule(world, k):
    _, board, ranks = world
    wanted = [decide(ranks, i, k) for i in range(QUERIES)]
    assert find_pool(board, k).category.tolist() == wanted
    assert len(set(wanted)) == 3


def test_a_pool_of_several_records_finds_what_any_of_them_finds(world):
    root, board, ranks = world
    pool = choose_pool(board, root, k=5, image=["image-only", "other"], composed=["sum"])
    either = [
        min([r for r in pair if r] or [0])
        for pair in zip(ranks["image-only"].tolist(), ranks["other"].tolist(), strict=True)
    ]
    assert pool.ranks["image"].tolist() == either
    assert [record.cell.method for record in pool.composed] == ["sum"]


def test_means_are_over_the_queries_of_a_subset_and_not_over_groups(world):
    _, board, ranks = world
    findings = audit_board(board).findings
    of = [decide(ranks, i, 10) for i in range(QUERIES)]
    kept = {
        "all": range(QUERIES),
        "shortcut-free": [i for i in range(QUERIES) if of[i] != "shortcut_solvable"],
    }
    assert {GROUPS[i >= 10] for i in kept["shortcut-free"]} == set(GROUPS)
    for subset, own in kept.items():
        for record, standing in zip(board.records, findings.scores[subset]["HR@10"], strict=True):
            hits = [100.0 * (1 <= ranks[record.cell.method][i] <= 10) for i in own]
            assert standing.value.value == pytest.approx(fmean(hits))
            assert standing.value.n == len(own)
    for name, share in findings.shares.items():
        assert share.value == pytest.approx(100 * of.count(name) / QUERIES)
        assert share.low <= share.value <= share.high


def test_intervals_are_of_the_references_that_are_drawn_for_all_records_at_once(world):
    """Drawn again by hand, a reference at a time."""
    _, board, ranks = world
    free = [i for i in range(QUERIES) if decide(ranks, i, 10) != "shortcut_solvable"]
    hits = np.array(
        [[100.0 * (1 <= ranks[r.cell.method][i] <= 10) for r in board.records] for i in free]
    )
    of_reference = {c: [j for j, i in enumerate(free) if f"r{i % 20}" == c] for c in references()}
    rng, names, drawn = np.random.default_rng(0), references(), []
    for start in range(0, 2000, 128):
        for row in rng.integers(0, 20, size=(min(128, 2000 - start), 20)):
            own = [j for c in row for j in of_reference[names[c]]]
            drawn.append(hits[own].mean(axis=0))
    drawn, best = np.array(drawn), int(hits.mean(axis=0).argmax())
    standings = audit_board(board).findings.scores["shortcut-free"]["HR@10"]
    for i, standing in enumerate(standings):
        low, high = np.percentile(drawn[:, i], [2.5, 97.5])
        assert (standing.value.low, standing.value.high) == pytest.approx((low, high))
        low, high = np.percentile(drawn[:, i] - drawn[:, best], [2.5, 97.5])
        assert (standing.difference.low, standing.difference.high) == pytest.approx((low, high))
        assert standing.best == (i == best)


def references():
    return sorted(f"r{i}" for i in range(20))


def test_a_subset_without_a_query_is_left_out(tmp_path):
    for method in METHODS:
        store(tmp_path, method, [1] * QUERIES)
    [board] = read_boards(tmp_path)
    assert set(audit_board(board).findings.scores) == {"all"}
    assert "all (60)" in render_leaderboard([board])


def test_a_board_without_a_record_of_the_text_alone_has_no_audit(tmp_path):
    for method in ("image-only", "sum"):
        store(tmp_path, method, draw_ranks(1))
    [board] = read_boards(tmp_path)
    assert audit_board(board) is None
    assert "composition" not in render_leaderboard([board])
    with pytest.raises(UsageError, match="'text-only'"):
        choose_pool(board, tmp_path)


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ({"image": ["nobody"]}, "'nobody'"),
        ({"composed": ["sum", "text-only"]}, "one side"),
        ({"image": ["image-only", "sum", "other"]}, "picture and text"),
    ],
)
def test_a_pool_that_cannot_decide_is_refused(world, sides, said):
    root, board, _ = world
    with pytest.raises(UsageError, match=said):
        choose_pool(board, root, **sides)


def test_the_committed_records_of_emoji_are_as_solvable_as_was_found_elsewhere(bench, tmp_path):
    shutil.copytree(RESULTS / "emoji", tmp_path / "emoji")
    code, out, _ = bench("audit", "emoji", "--composed", "pic2word", "--json", "-o", tmp_path)
    assert code == 0
    [found] = json.loads(out)
    shares = {name: round(share["value"], 1) for name, share in found["shares"].items()}
    assert shares == {
        "shortcut_solvable": 31.6,
        "composition_required": 30.9,
        "unresolved": 37.5,
    }
    [own] = [record for record in found["records"] if record["method"] == "pic2word"]
    of = {name: metrics["R@10"]["value"]["value"] for name, metrics in own["metrics"].items()}
    assert {name: round(value, 1) for name, value in of.items()} == {
        "all": 59.1,
        "shortcut-free": 45.2,
        "composition required": 100.0,
    }
    assert found["decided_by"]["k"] == 10
    assert [one["method"] for one in found["decided_by"]["composed"]] == ["pic2word"]
    assert not list(tmp_path.glob("*.md"))


def test_the_command_writes_its_page_beside_the_leaderboard(bench, world):
    root, board, _ = world
    code, out, _ = bench("audit", "shapes", "-o", root)
    assert code == 0
    page = (root / "audit-shapes.md").read_text(encoding="utf-8")
    assert page in out
    assert page.count("| method ") == len(PROTOCOL.metrics)
    assert f"shortcut-free ({sum(find_pool(board).category != 'shortcut_solvable')})" in page


def test_leaderboard_and_gallery_show_what_the_audit_says(world):
    _, board, ranks = world
    text = render_leaderboard([board])
    assert "### HR@10 by composition audit" in text
    assert "shortcut-free, minus the best" in text
    page = render_gallery(board, None)
    for name in FACETS.values():
        assert f">{name}</option>" in page
    only_text = [
        i
        for i in range(QUERIES)
        if 1 <= ranks["text-only"][i] <= 10 and not 1 <= ranks["image-only"][i] <= 10
    ]
    assert page.count('data-audit="text"') == len(only_text) > 0
    required = [decide(ranks, i, 10) for i in range(QUERIES)].count("composition_required")
    assert page.count('data-audit="composition"') == required > 0


def export(bench, root, path, *options):
    code, _, err = bench("audit", "shapes", "--export", path, "-o", root, *options)
    assert code == 0, err
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_labels_that_were_written_decide_the_same_when_they_are_read(bench, world, kind):
    root, board, _ = world
    rows = export(bench, root, root / "labels.jsonl", "--k", "3")
    others = [{**rows[0], "dataset": "elsewhere", "query_id": 7}]
    theirs = pd.DataFrame([*rows[::-1], *others])
    theirs["query_id"] = theirs["query_id"].astype(str)
    path = root / f"theirs.{kind}"
    if kind == "jsonl":
        theirs.to_json(path, orient="records", lines=True)
    else:
        theirs["positive_candidate_ids"] = [["a", "b"]] * len(theirs)
        theirs.to_parquet(path)
    labels, pool = read_labels(path, board), find_pool(board, 3)
    assert labels.category.tolist() == pool.category.tolist()
    read, ours = (Audit(board=board, labels=one, metrics=("HR@1",)) for one in (labels, pool))
    assert read.findings == ours.findings
    code, out, _ = bench("audit", "shapes", "--labels", path, "-o", root)
    assert code == 0
    assert f"by the labels theirs.{kind} (sha256 " in out


def test_a_caption_may_hold_any_character(bench, world):
    root, board, _ = world
    rows = [{**r, "query_text": "a\u2028b"} for r in export(bench, root, root / "labels.jsonl")]
    path = root / "theirs.jsonl"
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    assert read_labels(path, board).category.tolist() == find_pool(board).category.tolist()


def test_a_row_says_what_decided_it(world):
    _, board, ranks = world
    pool = find_pool(board)
    for i, row in enumerate(list_rows(board, pool)):
        assert row["audit_category"] == decide(ranks, i, 10)
        assert row["is_shortcut_free"] == (row["audit_category"] != "shortcut_solvable")
        assert row["best_image_rank"] == (ranks["image-only"][i] or None)
        assert row["text_hit_at_10"] == (1 <= ranks["text-only"][i] <= 10)
        assert (row["shortcut_type"] is None) == row["is_shortcut_free"]
        if row["shortcut_type"] == "image_and_text":
            assert row["image_hit_at_10"]
            assert row["text_hit_at_10"]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda rows: rows[:-2], UsageError, "lacks 2 .*: q58 .*q59"),
        (lambda rows: [*rows, {**rows[0], "query_id": "new"}], UsageError, "has.* 1 .*: new"),
        (lambda rows: [{**row, "source_split": "val"} for row in rows], UsageError, "shapes val"),
        (
            lambda rows: (
                [*rows, {**rows[0], "audit_category": "unresolved"}]
                if rows[0]["audit_category"] != "unresolved"
                else [*rows, {**rows[0], "audit_category": "composition_required"}]
            ),
            CorruptData,
            "two categories",
        ),
        (lambda rows: [{**rows[0], "audit_category": "solved"}], CorruptData, "line 1: audit_c"),
        (lambda rows: [{**rows[0], "query_id": None}], CorruptData, "line 1: query_id"),
        (
            lambda rows: [{**row, "is_shortcut_free": not row["is_shortcut_free"]} for row in rows],
            CorruptData,
            "is_shortcut_free must be",
        ),
    ],
)
def test_labels_of_something_else_are_refused(bench, world, change, error, said):
    root, board, _ = world
    rows = change(export(bench, root, root / "labels.jsonl"))
    path = root / "theirs.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    with pytest.raises(error, match=said):
        read_labels(path, board)
    assert bench("audit", "shapes", "--labels", path, "-o", root)[0] == error.exit_code


def test_what_cannot_be_exported_as_one_is_refused(bench, world):
    root, _, _ = world
    for method in METHODS:
        store(root, method, draw_ranks(7), split="val")
    code, _, err = bench("audit", "shapes", "--export", root / "x.jsonl", "-o", root)
    assert code == 2
    assert "--split" in err
    assert not (root / "x.jsonl").exists()
    code, _, err = bench("audit", "shapes", "--labels", "l", "--image", "sum", "-o", root)
    assert code == 2
