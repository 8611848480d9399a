"""The main job comes out as published here, and what is committed is of the code as it stands."""

from __future__ import annotations

import json

import pytest
from places import RESULTS

from cirbench.benchmark.api.registry import find_task, methods
from cirbench.benchmark.evaluation.plan import Request, plan, plan_each
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.records.record import read_records
from cirbench.benchmark.runtime.files import sha256_of_file
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.emoji.task import PROTOCOL

SUPERVISED = ("combiner", "tirg", "maaf", "artemis", "cirplant")
METHODS = ("image-only", "text-only", "image-text", "pic2word", *SUPERVISED)
WEIGHTS = RESULTS.parent / "methods" / "weights"


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    request = Request(
        methods=METHODS,
        task="emoji",
        split="val",
        cache="off",
        output=tmp_path_factory.mktemp("results"),
    )
    records = run(plan(request), Reporter(quiet=True))
    return {record.cell.method: record for record in records}


@pytest.mark.parametrize("average", ["average", "average without flat"])
@pytest.mark.parametrize("other", METHODS[:3])
def test_pic2word_stands_above_each_baseline_on_unseen_concepts(val, average, other):
    best = val["pic2word"].metrics[average]["R@10"]
    assert best.low > val[other].metrics[average]["R@10"].high


def test_a_record_says_all_that_is_needed_to_make_it_again(val):
    data = val["pic2word"].to_json()
    assert data["cell"]["trained_on"] == "emoji"
    assert set(data["fingerprints"]) == {
        "weights",
        "tokenizer",
        "preprocess",
        "checkpoint",
        "annotations",
        "gallery",
        "references",
    }
    assert all(len(value) == 64 for value in data["fingerprints"].values())
    assert set(data["run"]["seconds"]) == {"load", "embed", "compose", "rank", "score"}
    assert data["counts"]["image_passes"] == data["counts"]["gallery"] == 750
    assert data["protocol"]["hash"] == PROTOCOL.hash


def test_the_query_itself_is_the_first_that_image_only_finds(val):
    arrays = val["image-only"].read_per_query()
    first = arrays.gallery[arrays.top[:, 0]]
    assert (first == arrays.reference).all()


def test_the_committed_results_are_all_that_runs_on_a_bare_machine():
    plans = plan_each(Request(methods=("all",), task="embedded", protocol="all"))
    wanted = {
        (plan.task.name, plan.protocol.hash, method.name)
        for plan in plans
        for method in plan.methods
        if methods()[method.name].origin == "cirbench"
    }
    found = {
        (record.cell.task, record.protocol.hash, record.cell.method)
        for record in read_records(RESULTS)
    }
    assert found == wanted


def test_the_committed_results_are_of_this_code_and_data():
    annotations = {
        plan.task.name: plan.data.annotations
        for plan in plan_each(Request(methods=("image-only",), task="embedded"))
    }
    shipped = {None, *map(sha256_of_file, WEIGHTS.glob("*.safetensors"))}
    for record in read_records(RESULTS):
        assert record.annotations.files == annotations[record.cell.task]
        assert record.environment.code.dirty is None
        assert record.cell.checkpoint in shipped
        record.read_per_query()


def test_a_record_is_written_as_it_was_read():
    for record in read_records(RESULTS):
        text = json.dumps(record.to_json(), indent=2, sort_keys=True)
        assert record.path.read_text(encoding="utf-8") == f"{text}\n"


def test_the_readmes_table_is_the_leaderboards():
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    for record in read_records(RESULTS):
        value = record.metrics["average"][record.protocol.headline]
        shown = f"{value.value:.1f} [{value.low:.1f}, {value.high:.1f}]"
        first = find_task(record.cell.task).protocols
        assert record.protocol.name != next(iter(first)) or shown in readme


def test_supervision_in_the_domain_stands_above_zero_shot_and_is_marked(val):
    combiner, pic2word = val["combiner"], val["pic2word"]
    assert combiner.metrics["average"]["R@10"].value > pic2word.metrics["average"]["R@10"].value
    assert [record.method.zero_shot for record in (combiner, pic2word)] == [False, True]
    assert combiner.cell.trained_on == "emoji"
