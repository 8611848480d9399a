"""Logs of Every Eval Ever keep its schema (MIT, in the folder beside), and fit each other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError

from cirbench.benchmark.export import every_eval
from cirbench.benchmark.export.every_eval import Provider, write_every_eval

SCHEMAS = Path(__file__).parent / "every_eval_ever"
PROVIDER = Provider(name="Example University", time=1_800_000_000)


def validator(name):
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    Draft7Validator.check_schema(schema)
    assert schema["version"] == "0.3.0"
    return Draft7Validator(schema)


@pytest.fixture
def written(world, tmp_path):
    """The log and its rows."""
    folder = tmp_path / "out"
    samples, log = write_every_eval(world.boards(), folder, None, PROVIDER)
    content = json.loads(log.read_text(encoding="utf-8"))
    detail = content["detailed_evaluation_results"]
    assert folder / detail["file_path"] == samples
    assert detail["checksum"] == hashlib.sha256(samples.read_bytes()).hexdigest()
    rows = list(map(json.loads, samples.read_text(encoding="utf-8").splitlines()))
    assert detail["total_rows"] == len(rows)
    return content, rows


def test_both_files_keep_the_schema(written):
    content, rows = written
    validator("eval").validate(content)
    for row in rows:
        validator("instance_level_eval").validate(row)


def test_the_schema_would_see_a_wrong_field(written):
    content, rows = written
    with pytest.raises(ValidationError):
        validator("eval").validate({**content, "model_info": {}})
    with pytest.raises(ValidationError):
        validator("instance_level_eval").validate({**rows[0], "ours": 1})


def test_results_are_the_records_with_their_intervals(written, world):
    content, _ = written
    [record] = world.boards()[0].records
    results = {r["evaluation_result_id"]: r["score_details"] for r in content["evaluation_results"]}
    metrics = record.metrics
    assert len(results) == sum(map(len, metrics.values())) == len(content["evaluation_results"])
    wanted = metrics["<hats>"]["mAP@5"]
    found = results["<hats>/mAP@5"]
    assert found["score"] == wanted.value
    interval = found["uncertainty"]["confidence_interval"]
    assert (interval["lower"], interval["upper"]) == (wanted.low, wanted.high)
    assert found["uncertainty"]["num_samples"] == 15


def test_rows_average_to_the_result_that_they_refer_to(written):
    content, rows = written
    for result in content["evaluation_results"]:
        name = result["evaluation_result_id"]
        own = [r["evaluation"]["score"] for r in rows if r["evaluation_result_id"] == name]
        if not name.startswith("average/"):
            assert np.mean(own) == pytest.approx(result["score_details"]["score"], abs=1e-9)
    assert {r["evaluation_id"] for r in rows} == {content["evaluation_id"]}
    assert {r["model_id"] for r in rows} == {content["model_info"]["id"]}


def test_the_output_is_what_the_metric_looked_at_and_the_reference_all_answers(written, world):
    _, rows = written
    names = [picture.id for picture in world.data.gallery]
    for number, query in enumerate(world.data.queries):
        own = {
            r["evaluation_result_id"].split("/")[1]: r for r in rows if r["sample_id"] == query.id
        }
        answers = [names[row] for row in query.positives]
        assert own["R@5"]["input"]["reference"] == answers
        ranked = [names[row] for row in world.arrays.top[number, :5]]
        assert own["R@5"]["output"]["raw"] == own["mAP@5"]["output"]["raw"] == ranked
        assert len(own["Rs@1"]["output"]["raw"]) == 1
        hits = len(set(ranked) & set(answers))
        assert own["HR@5"]["evaluation"] == {"score": 100.0 * (hits > 0), "is_correct": hits > 0}


def test_no_caption_is_written(written, world):
    assert world.data.queries[0].fields["caption"] not in json.dumps(written)


def test_records_of_made_data_are_left_out_or_refused(bench, world, tmp_path):
    world.write(made=True)
    arguments = ("export", "eee", "--by", "Jo", "--output", world.root, "--out", tmp_path / "out")
    code, out, error = bench(*arguments)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "left out 1 records of made data" in error
    for path in world.root.glob("theirs/*"):
        path.unlink()
    code, out, error = bench(*arguments)
    assert (code, out) == (2, "")
    assert "made data must not be exported" in error


def test_a_record_that_breaks_off_leaves_neither_file(world, tmp_path, monkeypatch):
    monkeypatch.setattr(every_eval, "make_log", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(write_every_eval(world.boards(), tmp_path / "out", None, PROVIDER))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
