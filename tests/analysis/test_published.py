"""The verdict on each published number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from making import make_body, make_cell

from cirbench.benchmark.analysis import published
from cirbench.benchmark.analysis.published import (
    DIFFERS,
    NOT_COMPARABLE,
    NOT_RUN,
    REPRODUCED,
    Published,
    read_published,
    verify,
)
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.registry import find_task, tasks
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.fields import Annotations, ArraysFile, CheckpointFile
from cirbench.benchmark.records.record import Record
from cirbench.benchmark.scoring import summary
from cirbench.datasets.cirr import SOFT

PROTOCOL = EvaluationProtocol(
    name="pic2word",
    version=1,
    gallery="everything",
    reference_removed=False,
    preprocess="clip",
    templates={},
    metrics=("R@10",),
    headline="R@10",
)
ROW = Published(
    method="pic2word",
    variant="",
    backbone="ViT-L-14/openai",
    task="imagenet-r",
    split="test",
    protocol="pic2word",
    group="average",
    metric="R@10",
    value="11.9",
    source="a paper",
    confirmed="yes",
)


def record(
    value=11.9,
    group="average",
    metric="R@10",
    protocol="pic2word",
    released=True,
    began_with=None,
    **cell,
):
    names = {"method": "pic2word", "task": "imagenet-r", "trained_on": "CC3M"}
    evaluated = replace(PROTOCOL, name=protocol)
    body = make_body(
        make_cell(evaluated, **{**names, "backbone": "ViT-L-14/openai", **cell}),
        evaluated,
        {group: {metric: Interval(value=value, low=value, high=value, n=1)}},
        ["all"],
        annotations=Annotations(released=released, files={}, remarks=()),
        checkpoint=CheckpointFile(name="w", backbone=began_with) if began_with else None,
    )
    beside = ArraysFile(file="a.npz", sha256="")
    return Record(path=Path("imagenet-r/a.json"), per_query=beside, **vars(body))


@pytest.mark.parametrize(
    ("value", "printed", "state"),
    [
        (12.05, "11.9", REPRODUCED),
        (12.051, "11.9", DIFFERS),
        (11.75, "11.9", REPRODUCED),
        (11.749, "11.9", DIFFERS),
        (12.004, "11.90", REPRODUCED),
        (12.006, "11.90", DIFFERS),
        (12.6, "12", REPRODUCED),
        (12.61, "12", DIFFERS),
    ],
)
def test_agreement_is_rounding_plus_a_tenth_of_a_point(value, printed, state):
    [verdict] = verify([replace(ROW, value=printed)], [record(value)])
    assert verdict.state == state
    assert verdict.difference == pytest.approx(value - float(printed))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"backbone": "ViT-B-32/openai"}, "backbone ViT-B-32/openai, published ViT-L-14/openai"),
        ({"split": "val"}, "split val, published test"),
        ({"protocol": "clip4cir"}, "protocol clip4cir, published pic2word"),
        ({"metric": "R@1"}, "no R@10 of average"),
        ({"group": "toy"}, "no R@10 of average"),
        ({"released": False}, "custom annotations"),
    ],
)
def test_what_is_not_the_same_is_not_compared(change, reason):
    [verdict] = verify([ROW], [record(**change)])
    assert (verdict.state, verdict.reason, verdict.measured) == (NOT_COMPARABLE, reason, None)


TOWERS = {
    "task": "fashion-iq",
    "split": "val",
    "method": "artemis",
    "trained_on": "Fashion-IQ",
    "protocol": "artemis",
}
PRINTED = replace(ROW, **TOWERS, backbone="RN50")


@pytest.mark.parametrize(
    ("backbone", "began_with", "printed", "said"),
    [
        ("trained:artemis+01234567", "torchvision:resnet50", "RN50", "was trained along"),
        ("trained:artemis+01234567", "torchvision:resnet18", "RN18", "was trained along"),
        ("torchvision:resnet152", "torchvision:resnet152", "RN152", "was not trained along"),
        ("torchvision:resnet50", None, "RN50", "was not trained along"),
    ],
)
def test_towers_go_by_the_name_that_papers_print(backbone, began_with, printed, said):
    ours = record(**TOWERS, backbone=backbone, began_with=began_with)
    [same] = verify([replace(PRINTED, backbone=printed)], [ours])
    assert same.state == REPRODUCED
    assert said in same.reason
    [other] = verify([replace(PRINTED, backbone="RN34")], [ours])
    assert (other.state, other.reason) == (
        NOT_COMPARABLE,
        f"backbone {printed}, published RN34",
    )


@pytest.mark.parametrize(
    ("backbone", "began_with"),
    [
        ("trained:artemis+01234567", None),
        ("trained:artemis+01234567", "torchvision:resnet50/random"),
        ("torchvision:resnet50/random", "torchvision:resnet50/random"),
        ("features:2048", "features:2048"),
        ("emoji-clip", "torchvision:resnet50"),
    ],
)
def test_other_towers_are_never_taken_for_a_papers(backbone, began_with):
    [verdict] = verify([PRINTED], [record(**TOWERS, backbone=backbone, began_with=began_with)])
    assert verdict.state == NOT_COMPARABLE


def test_only_on_cirr_are_vectors_taken_for_those_of_its_authors():
    cirr = {"task": "cirr", "trained_on": "CIRR"}
    row = replace(PRINTED, **cirr, backbone="RN152")
    ours = record(**{**TOWERS, **cirr}, backbone="features:2048", began_with="features:2048")
    [verdict] = verify([row], [ours])
    assert verdict.state == REPRODUCED
    assert "features:2048 is taken for the vectors that cirr comes with" in verdict.reason
    assert verify([replace(row, backbone="RN50")], [ours])[0].state == NOT_COMPARABLE


def test_the_same_towers_under_another_protocol_are_not_compared():
    began = {"backbone": "trained:artemis+01234567", "began_with": "torchvision:resnet50"}
    ours = record(**{**TOWERS, "protocol": "pic2word"}, **began)
    [verdict] = verify([PRINTED], [ours])
    assert verdict.reason == "protocol pic2word, published artemis"


def test_another_gallery_is_named():
    row = replace(ROW, protocol="", gallery="a part")
    [verdict] = verify([row], [record()])
    assert verdict.state == NOT_COMPARABLE
    assert "gallery everything, published a part" in verdict.reason
    [same] = verify([replace(row, gallery="everything")], [record()])
    assert (same.state, "gallery" in same.reason) == (NOT_COMPARABLE, False)


def test_a_known_cause_stands_beside_a_difference():
    cause = "queries are drawn at random"
    row = replace(ROW, task="coco", split="val2017", known_cause=cause)
    [differs] = verify([row], [record(20.0, task="coco", split="val2017")])
    assert (differs.state, cause in differs.reason) == (DIFFERS, True)
    [agrees] = verify([row], [record(task="coco", split="val2017")])
    assert (agrees.state, agrees.reason) == (REPRODUCED, "")


def test_what_was_not_run_is_said():
    assert [v.state for v in verify([ROW], [])] == [NOT_RUN]
    assert [v.state for v in verify([ROW], [record(task="cirr")])] == [NOT_RUN]


def test_each_record_that_answers_has_its_verdict():
    others = record(30.0, checkpoint="f" * 64), record(11.9, split="val")
    verdicts = verify([ROW], [record(11.9), *others])
    assert [v.state for v in verdicts] == [REPRODUCED, DIFFERS]
    assert "weights none" in verdicts[0].name
    assert "weights ffffffff" in verdicts[1].name
    assert [v.name for v in verify([ROW], [record(11.9)])] == ["pic2word"]


def test_a_combiner_is_held_against_its_own_training_data():
    row = replace(ROW, method="combiner", variant="CIRR", trained_on="CIRR")
    ours = record(method="combiner", trained_on="Fashion-IQ")
    assert verify([row], [ours])[0].state == NOT_COMPARABLE
    assert verify([row], [record(method="combiner", trained_on="CIRR")])[0].state == REPRODUCED


def test_only_confirmed_rows_of_the_authors_gate():
    assert ROW.gates
    assert replace(ROW, variant="CIRR", trained_on="CIRR").gates
    assert not replace(ROW, confirmed="no").gates
    assert not replace(ROW, confirmed="derived").gates
    assert not replace(ROW, variant="public ckpt, third-party rerun").gates
    assert not replace(ROW, variant="OSCAR initialisation", trained_on="CIRR").gates
    assert not replace(ROW, protocol="").gates


def test_the_file_is_whole():
    rows = read_published()
    assert len(rows) == 1513
    assert {row.confirmed for row in rows} == {"yes", "derived", "no"}
    assert all(float(row.value) >= 0 and row.source for row in rows)
    pic2word = [r for r in rows if r.method == "pic2word" and r.task == "imagenet-r" and r.gates]
    assert {row.protocol for row in pic2word} == {"pic2word"}
    drawn = [row for row in rows if row.task == "coco"]
    assert all("drawn at random" in row.known_cause for row in drawn)


def test_a_row_names_what_ours_would_be_measured_under():
    known = {task: find_task(task).protocols for task in tasks()}
    for row in read_published():
        protocols = known.get(row.task, {})
        assert not (row.protocol and row.gallery)
        if row.gallery:
            gallery = row.gallery.removesuffix(" without the reference")
            assert gallery in {protocol.gallery for protocol in protocols.values()}
        if row.protocol and protocols:
            assert row.metric in protocols[row.protocol].metrics


def test_what_soft_targets_gave_is_no_recall():
    found = [
        r for r in read_published() if (r.method, r.task, r.split) == ("cirplant", "cirr", "val")
    ]
    assert {row.metric for row in found} == set(SOFT.metrics)
    assert {row.protocol for row in found} == {"soft"}


def test_two_values_of_one_number_are_both_listed_and_the_doubted_one_does_not_gate():
    found = {
        row.value: row.gates
        for row in read_published()
        if (row.method, row.task, row.group, row.metric) == ("maaf", "fashion-iq", "toptee", "R@10")
    }
    assert found == {"27.9": True, "27.8": False}


@pytest.mark.parametrize(
    ("value", "require", "code", "said"),
    [
        ("11.9", [], 0, "1 reproduced · 0 differs · 1 not run"),
        ("11.9", ["--require"], 1, "1 confirmed numbers: differs or not run"),
        ("12.1", [], 1, "0 reproduced · 1 differs · 1 not run"),
    ],
)
def test_the_command_counts_verdicts_and_fails_on_a_difference(
    bench, monkeypatch, value, require, code, said
):
    rows = [replace(ROW, value=value), replace(ROW, task="cirr")]
    monkeypatch.setattr(published, "read_published", lambda: rows)
    monkeypatch.setattr(summary, "read_scored", lambda output: [record()])
    got, out, err = bench("verify", *require)
    assert got == code
    assert said in out + err
    one, other = json.loads(bench("verify", "--json")[1])
    assert one["value"] == value
    assert other["state"] == NOT_RUN
