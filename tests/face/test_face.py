"""`import cirbench`: what a script or a notebook has."""

from __future__ import annotations

import ast
import doctest
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from places import RESULTS, ROOT
from torch.nn.functional import normalize

import cirbench
from cirbench.benchmark.runtime.errors import MissingData, UsageError

FAKE = {"backbone": "fake", "split": "val"}


class Negated(cirbench.Method):
    """Looks for what the reference is least like."""

    name = "negated"

    def compose(self, queries):
        return normalize(-queries.reference_features, dim=-1)


def in_a_new_python(code):
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        encoding="utf-8",
        check=True,
        env={**os.environ, "PYTHONWARNDEFAULTENCODING": ""},  # torch itself is warned of
    )
    return done.stdout.strip(), done.stderr


def test_importing_it_imports_nothing_heavy():
    heavy = "{'torch', 'numpy', 'pandas', 'rich', 'typer', 'PIL', 'matplotlib'}"
    code = f"import cirbench, sys; print(cirbench.__version__, {heavy} & set(sys.modules))"
    assert in_a_new_python(code)[0] == f"{cirbench.__version__} set()"


def test_type_checkers_see_what_is_there():
    tree = ast.parse((ROOT / "benchmark/face/__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {node.names[0].name: node.module for node in block.body}
    assert seen == cirbench._HOMES
    assert set(cirbench.__all__) == {"__version__", *seen} == set(dir(cirbench))
    for name in cirbench.__all__:
        assert getattr(cirbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = cirbench.evaluat


@pytest.mark.parametrize("name", sorted(cirbench._HOMES))
def test_every_public_name_has_an_example_that_runs(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    finder = doctest.DocTestFinder(recurse=False)
    [examples] = finder.find(getattr(cirbench, name), name, globs={})
    assert examples.examples
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_names_and_classes_are_evaluated_together(tmp_path):
    found = cirbench.evaluate(["text-only", Negated], "emoji", output=tmp_path / "mine", **FAKE)
    assert [record.cell.method for record in found] == ["text-only", "negated"]
    assert cirbench.read_records(tmp_path / "mine").to_frame().method.unique().tolist() == [
        "negated",
        "text-only",
    ]


def test_records_without_a_folder_are_kept_until_python_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import cirbench\n"
        "[record] = cirbench.evaluate('text-only', 'emoji', backbone='fake', split='val')\n"
        "assert record.read_per_query().query.size\n"
        "print(record.path.parents[1])"
    )
    folder, _ = in_a_new_python(code)
    assert folder.startswith("/")
    assert not Path(folder).exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


def test_a_loaded_backbone_and_a_task_of_ones_own(monkeypatch):
    class Twice(type(cirbench.load_task("emoji"))):
        name = "twice"

        def load(self, **wanted):
            data = super().load(**wanted)
            return cirbench.TaskData(
                gallery=data.gallery, queries=data.queries[::200], annotations=data.annotations
            )

    backbone = cirbench.load_backbone("mine=fake")
    loads = []
    monkeypatch.setattr("cirbench.benchmark.evaluation.run.load_backbone", loads.append)
    [record] = cirbench.evaluate(Negated, Twice(), backbone=backbone)
    assert (record.cell.task, record.cell.backbone, loads) == ("twice", "mine", [])
    assert record.counts.queries == 12


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"bachbone": "fake"}, "unknown setting 'bachbone'; did you mean backbone?"),
        ({"backbone": "fak"}, "unknown backbone 'fak'; did you mean fake?"),
        ({"limit": 1, "split": "vall"}, "unknown split 'vall'"),
    ],
)
def test_mistakes_are_told_with_what_was_meant(wanted, says):
    with pytest.raises(UsageError, match=says):
        cirbench.evaluate(Negated, "emoji", **wanted)


def test_a_method_of_ones_own_does_not_pass_for_a_registered_one():
    class Mine(Negated):
        name = "pic2word"

    with pytest.raises(UsageError, match="must not be named 'pic2word'"):
        cirbench.evaluate(Mine, "emoji", **FAKE)


def test_a_method_of_ones_own_that_needs_weights_gets_the_file_that_is_named(tmp_path):
    class Weighty(Negated):
        name = "weighty"
        needs_checkpoint = True

    with pytest.raises(MissingData, match="'weighty': FILE"):
        cirbench.evaluate(Weighty, "emoji", **FAKE)
    with pytest.raises(MissingData, match="no checkpoint at"):
        cirbench.evaluate(Weighty, "emoji", checkpoints={"weighty": tmp_path / "no"}, **FAKE)


def test_a_method_may_rank_by_a_score_of_its_own():
    class Nearest(Negated):
        name = "nearest"

        def compose(self, queries):
            assert len(queries.texts()) == len(queries.reference_features)
            return torch.stack([queries.reference_features] * 2, dim=1)  # no vector a query

        def gallery(self, features):
            return torch.nn.functional.normalize(features, dim=1)

        def score(self, queries, gallery):
            return queries.mean(dim=1) @ gallery.T

    own, plain = cirbench.evaluate([Nearest, "image-only"], "emoji", **FAKE)
    assert own.metrics == plain.metrics


def test_a_method_without_a_compose_fails_at_once():
    class Empty(cirbench.Method):
        name = "empty"

    with pytest.raises(TypeError, match="abstract"):
        Empty.build(backbone=cirbench.load_backbone("fake"), checkpoint=None)


def test_without_a_terminal_it_is_quiet():
    code = (
        "import cirbench\n"
        "print(len(cirbench.evaluate('text-only', 'emoji', backbone='fake', limit=2)))"
    )
    assert in_a_new_python(code) == ("1", "")


def test_the_process_is_left_as_it_was(tmp_path):
    before = torch.random.get_rng_state()
    torch.set_float32_matmul_precision("medium")
    style, threads = dict(mpl.rcParams), torch.get_num_threads()
    try:
        cirbench.evaluate(["image-only", Negated], "emoji", output=tmp_path / "mine", **FAKE)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (dict(mpl.rcParams), torch.get_num_threads()) == (style, threads)


def test_a_method_that_draws_at_random_has_the_same_numbers_beside_any_other():
    class Random(Negated):
        name = "random"

        def compose(self, queries):
            return normalize(torch.randn_like(queries.reference_features), dim=-1)

    alone = cirbench.evaluate(Random, "emoji", **FAKE)
    beside = cirbench.evaluate([Negated, Random], "emoji", **FAKE)
    other = cirbench.evaluate(Random, "emoji", seed=1, **FAKE)
    values = [found[-1].read_per_query().values for found in (alone, beside, other)]
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_the_table_holds_each_number_of_each_record():
    records = cirbench.read_records(RESULTS)
    frame = records.to_frame()
    assert list(frame.columns) == [
        *("task", "protocol", "method", "backbone", "seed"),
        *("group", "metric", "value", "low", "high", "n"),
    ]
    for record in records:
        own = frame.loc[record.path.stem].set_index(["group", "metric"])
        for group, metrics in record.metrics.items():
            for metric, interval in metrics.items():
                shown = own.loc[(group, metric), ["value", "low", "high", "n"]].to_dict()
                assert shown == vars(interval)


def test_the_table_of_queries_has_the_records_means():
    records = cirbench.read_records(RESULTS)
    queries = records.per_query()
    means = queries.groupby(["record", "group"])["R@1"].mean()
    for record in records:
        for group in record.groups:
            wanted = record.metrics[group]["R@1"].value
            assert means[record.path.stem, group] == pytest.approx(wanted)


def test_no_records_make_empty_tables(tmp_path):
    (tmp_path / "empty").mkdir()
    records = cirbench.read_records(Path(tmp_path / "empty"))
    assert records == []
    assert records.to_frame().empty
    assert records.per_query().empty
