"""Leaderboards: what stands together, what is bold, what is linked, and that nothing else moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import make_body, make_cell, make_counts, make_fingerprints

from cirbench.benchmark.analysis.boards import make_boards, read_boards
from cirbench.benchmark.analysis.published import Published
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.records.fields import MethodFacts
from cirbench.benchmark.records.record import read_records, write_record
from cirbench.benchmark.report.markdown import render_leaderboard
from cirbench.benchmark.report.plots import HATCHES, SUPERVISED_HATCHES, draw
from cirbench.benchmark.report.publish import find_stale, publish
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.figures import COLOURS, render_png, render_svg
from cirbench.benchmark.scoring.metrics import find_hits, parse_metric
from cirbench.benchmark.scoring.summary import summarise

EXPECTED = Path(__file__).with_name("leaderboard.md")
GROUPS = ("cartoon", "toy")
SUPERVISED = "bad|<b>"
PROTOCOL = EvaluationProtocol(
    name="plain",
    version=1,
    gallery="everything",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "a {x}"},
    metrics=("R@1", "R@2"),
    headline="R@2",
    averages={"average without toy": ("cartoon",)},
)


def store(root, method, skill, protocol=PROTOCOL, gallery="g", **cell):
    """40 references × 2 groups, where `skill` of the queries find their target first."""
    rng = np.random.default_rng(0)
    groups = np.repeat(GROUPS, 40)
    found = rng.random(80) < skill
    top = np.where(found[:, None], [[0, 1]], [[2, 1]]).astype(np.int32)
    positives = [(0,)] * 80
    hits, counts = find_hits(top, positives), np.ones(80, dtype=np.int64)
    values = [parse_metric(m).per_query(hits, counts) for m in protocol.metrics]
    arrays = PerQuery(
        query=np.array([f"q{i}" for i in range(80)]),
        reference=np.array([f"r{i % 40}" for i in range(80)]),
        group=groups,
        gallery=np.array(["a", "b", "c"]),
        top=top,
        similarity=top.astype(np.float32),
        hits=hits,
        positives=counts,
        first_rank=counts,
        tied=np.zeros(80, dtype=bool),
        metrics=np.array(protocol.metrics),
        values=np.stack(values, axis=1),
    )
    metrics = summarise(arrays, GROUPS, protocol)
    identity = make_cell(protocol, method=method, **cell)
    parts = {
        "method": MethodFacts(zero_shot=method != SUPERVISED, remarks=()),
        "counts": make_counts(80, 40, 3),
        "fingerprints": make_fingerprints(gallery=gallery),
    }
    return write_record(root, make_body(identity, protocol, metrics, GROUPS, **parts), arrays)


def test_the_page_is_the_golden_one(tmp_path):
    store(tmp_path, "good", 0.8, trained_on="CC3M")
    store(tmp_path, "bad|<b>", 0.3)
    text = render_leaderboard(read_boards(tmp_path))
    assert text == EXPECTED.read_text(encoding="utf-8")


def test_the_best_row_comes_first_and_its_values_are_bold(tmp_path):
    store(tmp_path, "bad", 0.3)
    store(tmp_path, "good", 0.8)
    rows = [
        line
        for line in render_leaderboard(read_boards(tmp_path)).splitlines()
        if line.startswith("| good")
    ]
    below = [
        line
        for line in render_leaderboard(read_boards(tmp_path)).splitlines()
        if line.startswith("| bad")
    ]
    assert rows
    assert all("**" in row for row in rows)
    assert not any("**" in row for row in below)


def test_published_numbers_stand_beside_ours_with_their_verdict(tmp_path):
    store(tmp_path, "good", 0.8, backbone="ViT-L-14/openai")
    printed = {
        "method": "good",
        "variant": "",
        "protocol": "pic2word",
        "backbone": "ViT-L-14/openai",
        "task": "shapes",
        "split": "test",
        "group": "toy",
        "metric": "R@2",
        "source": "a paper",
        "confirmed": "yes",
    }
    rows = [Published(**printed, value="80.0"), Published(**printed, value="79.0")]
    assert "published" not in render_leaderboard(read_boards(tmp_path), rows)
    store(tmp_path, "pic2word", 0.8, replace(PROTOCOL, name="pic2word"), backbone="ViT-L-14/openai")
    text = render_leaderboard(
        read_boards(tmp_path), [replace(row, method="pic2word") for row in rows]
    )
    lines = [line.split("|") for line in text.splitlines() if "a paper" in line]
    assert [[cell.strip() for cell in line[4:8]] for line in lines] == [
        ["80.0", "80.00", "+0.00", "reproduced"],
        ["79.0", "80.00", "+1.00", "differs"],
    ]


def test_what_was_computed_of_unchanged_records_is_not_computed_again(tmp_path, monkeypatch):
    store(tmp_path, "good", 0.8)
    store(tmp_path, "bad", 0.3)
    first = publish(tmp_path, read_boards(tmp_path))
    contents = [path.read_bytes() for path in first]
    for path in first:
        path.unlink()
    monkeypatch.setattr("numpy.load", lambda *_, **__: pytest.fail("read per-query data again"))
    assert publish(tmp_path, read_boards(tmp_path)) == first
    assert [path.read_bytes() for path in first] == contents
    monkeypatch.undo()
    store(tmp_path, "better", 0.9)
    [board] = read_boards(tmp_path)
    assert [record.cell.method for record in board.records] == ["better", "good", "bad"]
    assert board.differences("average")[2].value < board.differences("average")[1].value < 0


def test_the_difference_is_paired(tmp_path):
    store(tmp_path, "good", 0.8)
    store(tmp_path, "twin", 0.8)
    store(tmp_path, "bad", 0.3)
    [board] = read_boards(tmp_path)
    first, second, third = board.differences("average")
    for same in (first, second):
        assert (same.value, same.low, same.high) == (0, 0, 0)
    assert third.low < third.value < third.high < 0
    assert third.value == pytest.approx(
        board.records[2].metrics["average"]["R@2"].value
        - board.records[0].metrics["average"]["R@2"].value
    )


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": replace(PROTOCOL, recall_epsilon=1e-5)},
        {"protocol": replace(PROTOCOL, version=2)},
        {"gallery": "other"},
        {"split": "val"},
        {"task": "others"},
    ],
)
def test_what_differs_in_kind_never_shares_a_table(tmp_path, change):
    store(tmp_path, "a", 0.5)
    store(tmp_path, "b", 0.5, **change)
    assert [len(board.records) for board in make_boards(list(read_records(tmp_path)))] == [1, 1]


def test_plots_have_the_same_bytes_each_time(tmp_path):
    store(tmp_path, "a", 0.5)
    store(tmp_path, "b", 0.7)
    [board] = read_boards(tmp_path)
    once, again = draw(board), draw(board)
    for kind in ("bars", "curves"):
        assert render_svg(once[kind], "d") == render_svg(again[kind], "d")
        assert render_png(once[kind]) == render_png(again[kind])


def test_bars_of_supervised_methods_have_lines_and_the_legend_says_so(tmp_path):
    for i in range(5):
        store(tmp_path, f"m{i}", 0.1 * i)
        store(tmp_path, SUPERVISED, 0.1 * i + 0.05, label=str(i))
    [board] = read_boards(tmp_path)
    figure = draw(board)["bars"]
    hatches = [bars.patches[0].get_hatch() or "" for bars in figure.axes[0].containers[1::2]]
    zero_shot = [record.method.zero_shot for record in board.records]
    looks = list(zip((i % len(COLOURS) for i in range(10)), hatches, strict=True))
    assert len(set(looks)) == 10, "ten records look different"
    for hatch, plain in zip(hatches, zero_shot, strict=True):
        assert (hatch in HATCHES) == plain
        assert (hatch in SUPERVISED_HATCHES) != plain
    last = figure.legends[0].get_texts()[-1].get_text()
    assert last == "supervised (lines)"


def test_where_none_is_supervised_the_legend_does_not_speak_of_it(tmp_path):
    store(tmp_path, "a", 0.5)
    [board] = read_boards(tmp_path)
    assert len(draw(board)["bars"].legends[0].get_texts()) == 1


def test_stale_names_what_is_old(tmp_path):
    store(tmp_path, "a", 0.5)
    publish(tmp_path, read_boards(tmp_path))
    assert find_stale(tmp_path) == []
    next(tmp_path.glob("*/*curves.png")).unlink()
    assert [path.suffix for path in find_stale(tmp_path)] == [".png"]
    publish(tmp_path, read_boards(tmp_path))
    store(tmp_path, "a", 0.6)
    assert {path.suffix for path in find_stale(tmp_path)} == {".md", ".svg"}


def test_no_records_and_damaged_records(tmp_path):
    with pytest.raises(MissingData):
        publish(tmp_path, read_boards(tmp_path))
    store(tmp_path, "a", 0.5)
    next(tmp_path.glob("*/*.npz")).write_bytes(b"nothing")
    with pytest.raises(CorruptData, match="npz"):
        publish(tmp_path, read_boards(tmp_path))
