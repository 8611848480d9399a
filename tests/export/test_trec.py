"""TREC files give their readers the numbers of the record."""

from __future__ import annotations

from dataclasses import replace

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, R, Success
from places import RESULTS

from cirbench.benchmark.analysis.boards import read_boards
from cirbench.benchmark.export.trec import QRELS, make_falling, make_tokens, write_trec
from cirbench.benchmark.runtime.errors import CorruptData

MEASURES = {
    "R@1": R @ 1,
    "R@5": R @ 5,
    "R@10": R @ 10,
    "R@50": R @ 50,
    "HR@5": Success @ 5,
    "mAP@5": AP @ 5,
    "mAP@50": AP @ 50,
}


def rescore(folder, run, names):
    """(Q, M) percent, by ir_measures, in the order of the qrels."""
    qrels = list(ir_measures.read_trec_qrels(str(folder / QRELS)))
    asked = {str(MEASURES[name]): name for name in names}
    order = list(dict.fromkeys(line.query_id for line in qrels))
    values = np.full((len(order), len(names)), np.nan)
    found = ir_measures.iter_calc(
        [MEASURES[name] for name in names], qrels, ir_measures.read_trec_run(str(run))
    )
    for one in found:
        row, column = order.index(one.query_id), names.index(asked[str(one.measure)])
        values[row, column] = 100 * one.value
    return values


def test_every_recall_of_the_committed_records_is_that_of_ir_measures(tmp_path):
    [board] = [board for board in read_boards(RESULTS) if board.first.cell.task == "emoji"]
    few = replace(board, records=board.records[:2])
    qrels, *runs = write_trec([few], tmp_path, None)
    for record, run in zip(few.records, runs, strict=True):
        names = list(record.protocol.metrics)
        again = rescore(qrels.parent, run, names)
        assert np.array_equal(again, record.scores.values)
        groups = record.scores.group
        for group in record.groups:
            mean = again[groups == group, names.index("R@10")].mean()
            assert mean == pytest.approx(record.metrics[group]["R@10"].value, abs=1e-12)


def test_ties_several_positives_and_odd_ids_come_out_the_same(world, tmp_path):
    _, run = write_trec(world.boards(), tmp_path, None)
    names = [name for name in world.arrays.metrics.tolist() if name in MEASURES]
    ours = world.arrays.values[:, [world.arrays.metrics.tolist().index(n) for n in names]]
    again = rescore(run.parent, run, names)
    exact = [i for i, name in enumerate(names) if not name.startswith("mAP")]
    assert np.array_equal(again[:, exact], ours[:, exact])
    # ir_measures adds the precisions in another order, which moves the last bit
    np.testing.assert_allclose(again, ours, rtol=1e-15, atol=0)
    assert world.arrays.tied.any()
    assert (world.arrays.positives == 0).any()


def test_ids_are_one_field_each_and_stay_apart():
    tokens = make_tokens(["a b", "a%20b", "a\tb", "a", "a", "é", "", "\udcff"])
    assert tokens == ["a%20b", "a%2520b", "a%09b", "a", "a%#2", "é", "%", "%ED%B3%BF"]


def test_ids_that_look_like_a_second_of_their_name_stay_apart():
    tokens = make_tokens(["a", "a", "a#2", "a%#2"])
    assert len(set(tokens)) == 4


def test_scores_fall_where_they_were_equal_and_stay_where_they_fell():
    scores = np.array([[0.5, 0.5, 0.5, 0.25, -np.inf]], dtype=np.float32)
    falling = make_falling(scores)
    assert (np.diff(falling[0, :4]) < 0).all()
    assert falling[0, [0, 3]].tolist() == [0.5, 0.25]
    assert np.abs(falling[:, :4] - scores[:, :4]).max() < 1e-6


def test_other_annotations_than_the_records_are_refused(world, tmp_path):
    queries = list(world.data.queries)
    queries[7] = replace(queries[7], positives=(*queries[7].positives, 39))
    object.__setattr__(world.data, "queries", tuple(queries))
    with pytest.raises(CorruptData, match="was scored with other answers"):
        list(write_trec(world.boards(), tmp_path / "out", None))
    assert not (tmp_path / "out").exists()


def test_a_run_of_made_data_says_so_in_each_line(world, tmp_path):
    _, run = write_trec(world.boards(), tmp_path, None)
    assert "made" not in run.read_text(encoding="utf-8")
    world.write(made=True)
    _, _, _, made = write_trec(world.boards(), tmp_path, None)
    lines = made.read_text(encoding="utf-8").splitlines()
    assert "theirs-made" in made.parts
    assert all(line.split()[5].startswith("theirs-made--m--") for line in lines)


def test_the_command_writes_what_is_wanted_and_names_each_file(bench, tmp_path):
    code, out, error = bench(
        *("export", "trec", "-t", "emoji", "-m", "pic2word"),
        *("--out", tmp_path, "--output", RESULTS),
    )
    assert code == 0, error
    paths = out.splitlines()
    [record] = (RESULTS / "emoji").glob("pic2word--*.json")
    assert [path.rpartition("/")[2] for path in paths] == [QRELS, f"{record.stem}.run"]
    assert sorted(map(str, tmp_path.rglob("*.*"))) == sorted(paths)
