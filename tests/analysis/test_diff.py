"""`bench diff`: what moved against a commit, and where it can't be asked."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from making import make_body, make_cell, make_counts, make_run

from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.record import write_record

PROTOCOL = EvaluationProtocol(
    name="shapes",
    version=1,
    gallery="all",
    reference_removed=False,
    preprocess="clip",
    templates={},
    metrics=("R@10",),
    headline="R@10",
)


def record(path, value, metric="R@10", partial=False, schema=1):
    """A record of one query, under that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    one = np.zeros((1, 1))
    arrays = PerQuery(
        query=np.array(["q"]),
        reference=np.array(["r"]),
        group=np.array(["a"]),
        gallery=np.array(["g"]),
        top=one.astype(np.int32),
        similarity=one.astype(np.float32),
        hits=one == 0,
        positives=np.array([1]),
        first_rank=np.array([1]),
        tied=np.array([False]),
        metrics=np.array([metric]),
        values=one + value,
    )
    interval = Interval(value=value, low=value, high=value, n=1)
    protocol = replace(PROTOCOL, metrics=(metric,), headline=metric)
    body = make_body(
        make_cell(protocol, method=path.stem, task=path.parent.name, protocol="shapes"),
        protocol,
        {name: {metric: interval} for name in ("average", "a")},
        ["a"],
        counts=make_counts(1, 1, 1),
        run=make_run(partial=partial),
    )
    written = write_record(path.parents[1], body, arrays).path
    written.write_text(
        written.read_text(encoding="utf-8").replace('"schema": 1', f'"schema": {schema}'),
        encoding="utf-8",
    )
    written.rename(path)


def git(folder, *arguments):
    name = ["-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run(["git", "-C", folder, *name, *arguments], check=True, capture_output=True)


@pytest.fixture
def results(tmp_path):
    """A results folder, two levels below a repository's root, with one commit."""
    folder = tmp_path / "sub" / "results"
    for name in ("kept", "moved", "gone"):
        record(folder / "emoji" / f"{name}.json", 50.0)
    record(folder / "emoji" / "partial.json", 1.0, partial=True)
    record(folder / "report" / "deep" / "data.json", 1.0)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return folder


@pytest.fixture
def bench(bench):
    """Runs bench diff."""
    return partial(bench, "diff")


def test_nothing_changed(bench, results):
    assert bench("-o", results) == (0, "0 records added, 0 removed, 0 metrics changed\n", "")


def test_added_removed_and_moved_records_are_named_and_end_in_1(bench, results):
    record(results / "emoji" / "moved.json", 50.06)
    record(results / "emoji" / "new.json", 9.0)
    (results / "emoji" / "gone.json").unlink()
    code, out, err = bench("HEAD", "-o", results)
    assert code == 1
    assert out.splitlines() == [
        "+ emoji/new.json",
        "- emoji/gone.json",
        "~ emoji/moved.json  a  R@10  50.00 → 50.06",
        "~ emoji/moved.json  average  R@10  50.00 → 50.06",
        "1 records added, 1 removed, 2 metrics changed",
    ]
    assert "2 metrics in 1 records differ from HEAD by more than 0.05 points" in err


@pytest.mark.parametrize(
    ("value", "tolerance", "code"),
    [(50.06, 0.1, 0), (50.04, 0.05, 0), (49.9, 0.05, 1), (50.001, 0, 1)],
)
def test_the_tolerance_decides(bench, results, value, tolerance, code):
    record(results / "emoji" / "moved.json", value)
    assert bench("-o", results, "--tolerance", tolerance)[0] == code


def test_a_metric_that_went_is_a_change_and_json_holds_it(bench, results):
    record(results / "emoji" / "moved.json", 50.0, metric="R@5")
    code, out, _ = bench("-o", results, "--json", "--tolerance", 99)
    assert code == 1
    changes = {change["metric"]: change for change in json.loads(out)["changes"]}
    assert (changes["R@10"]["before"], changes["R@10"]["after"]) == (50.0, None)
    assert (changes["R@5"]["before"], changes["R@5"]["after"]) == (None, 50.0)


@pytest.mark.parametrize("revision", ["nonesuch", "--output=x", "HEAD~7"])
def test_an_unknown_revision_is_a_clear_error(bench, results, revision, tmp_path):
    code, _, err = bench("-o", results, "--", revision)
    assert code == 2
    assert "that knows the revision" in err
    assert not (tmp_path / "x").exists()
    assert not (results / "x").exists()


def test_outside_a_repository_and_without_a_folder(bench, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("bare")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
    code, _, err = bench("-o", folder)
    assert code == 2
    assert "not a git repository" in err
    assert bench("-o", folder / "nonesuch")[0] == 3


def test_records_of_another_schema_then_are_refused_by_name(bench, results):
    record(results / "emoji" / "moved.json", 50.0, schema=0)
    git(results, "commit", "-qam", "old")
    record(results / "emoji" / "moved.json", 50.0)
    code, _, err = bench("-o", results)
    assert code == 4
    assert "HEAD:emoji/moved.json must be a record of schema 1" in err


def test_a_record_that_was_edited_is_refused(bench, results):
    path = results / "emoji" / "moved.json"
    path.write_text(path.read_text(encoding="utf-8").replace("50.0", "99.9"), encoding="utf-8")
    code, _, err = bench("-o", results)
    assert code == 4
    assert "moved.json was edited" in err
