"""`bench rerun` makes a record again from its own fingerprints, and says what is not the same."""

from __future__ import annotations

import json

import pytest

from cirbench.benchmark.records.record import read_record
from cirbench.benchmark.records.reruns import path_of_reruns, read_reruns
from cirbench.benchmark.runtime.errors import CorruptData

SETTINGS = ("-t", "kin", "--split", "val", "-b", "fake", "-q")


@pytest.fixture
def stored(bench, tmp_path):
    code, _, error = bench("run", "-m", "image-text", *SETTINGS, "--output", tmp_path)
    assert code == 0, error
    [path] = tmp_path.glob("kin/*.json")
    return path


def edit(path, change):
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def test_an_untouched_record_comes_out_identical_and_nothing_is_written(bench, stored):
    before = sorted(stored.parent.iterdir())
    code, out, _ = bench("rerun", stored, "-q")
    assert code == 0
    assert "identical; no metric differs by more than 0 points" in out
    assert "not as it was" not in out
    assert sorted(stored.parent.iterdir()) == before


def test_who_vouches_for_a_rerun_is_kept_beside_the_record(bench, stored):
    for name in ("Jo, ANU", "Kim"):
        assert bench("rerun", stored, "-q", "--by", name)[0] == 0
    record = read_record(stored)
    reruns = read_reruns(stored, record.per_query.sha256)
    assert [rerun.by for rerun in reruns] == ["Jo, ANU", "Kim"]
    assert all(rerun.environment == record.environment for rerun in reruns)
    assert {rerun.verdict for rerun in reruns} == {"identical"}
    assert read_reruns(stored, "of another run") == []
    assert len(list(stored.parent.glob("*.json"))) == 1


def test_a_number_that_is_not_the_records_ends_in_1(bench, stored):
    def change(data):
        data["metrics"]["average"]["R@5"]["value"] += 0.2

    edit(stored, change)
    code, out, error = bench("rerun", stored, "-q")
    assert code == 1
    assert "different; no metric differs by more than 0.2 points" in out
    assert "1 of 1 records came out differently" in error


def test_a_small_move_is_within_the_tolerance(bench, stored):
    def change(data):
        data["metrics"]["average"]["R@5"]["value"] += 0.01

    edit(stored, change)
    code, out, _ = bench("rerun", stored, "--json", "-q")
    [found] = json.loads(out)
    assert (code, found["verdict"], found["largest"]) == (0, "within tolerance", 0.01)


@pytest.mark.parametrize(
    ("field", "word"),
    [
        ("annotations", "annotations"),
        ("weights", "backbone's weights"),
        ("tokenizer", "tokenizer"),
        ("preprocess", "preprocessing"),
        ("gallery", "gallery"),
        ("references", "references"),
    ],
)
def test_other_weights_data_or_pixels_are_refused(bench, stored, field, word):
    edit(stored, lambda data: data["fingerprints"].update({field: "0" * 64}))
    code, _, error = bench("rerun", stored, "-q", "--by", "Jo")
    assert code == 1
    assert f"{word}: 000000000000, now " in error
    assert not path_of_reruns(stored).exists()


def test_another_place_is_told_and_does_not_matter(bench, stored):
    edit(stored, lambda data: data["environment"]["code"].update(commit="f" * 40))
    edit(stored, lambda data: data["environment"]["packages"].update(torch="0.1"))
    code, out, _ = bench("rerun", stored, "-q")
    assert code == 0
    assert "not as it was: commit: ffffffffffff, now " in out
    assert "not as it was: torch: 0.1, now " in out


def test_a_record_whose_weights_are_gone_says_which(bench, stored):
    def change(data):
        data["cell"].update(method="pic2word", checkpoint="a" * 64)

    edit(stored, change)
    code, _, error = bench("rerun", stored, "-q")
    assert code == 3
    assert "its weights, aaaaaaaa…, are neither shipped nor released" in error


def test_a_damaged_line_is_told(stored):
    path_of_reruns(stored).write_text("{}\n", encoding="utf-8")
    with pytest.raises(CorruptData, match="a line each"):
        read_reruns(stored, "any")


def test_what_was_imported_is_refused(bench, stored):
    run = stored.parent / "a.trec"
    data = read_record(stored).read_per_query()
    run.write_text(
        "".join(
            f"{query} Q0 {data.gallery[row]} {rank} {-rank} tag\n"
            for query, rows in zip(data.query, data.top, strict=True)
            for rank, row in enumerate(rows)
        ),
        encoding="utf-8",
    )
    asked = ("-t", "kin", "--split", "val", "--producer", "me", "--output", stored.parent / "out")
    code, _, error = bench("import", run, *asked, "-q", "--json")
    assert code == 0, error
    [imported] = (stored.parent / "out").glob("*/*.json")
    code, _, error = bench("rerun", imported, "-q")
    assert code == 2
    assert "was imported" in error


def test_a_split_without_public_labels_is_compared_query_by_query(bench, stored):
    edit(stored, lambda data: data.update(metrics={}))
    code, out, _ = bench("rerun", stored, "-q")
    assert code == 0
    assert "identical" in out
