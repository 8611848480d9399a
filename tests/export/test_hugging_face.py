"""Hugging Face's own classes read what is written for it, with the records' numbers."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results

from cirbench.benchmark.export.hugging_face import INDEX, RESULTS, name_model, write_hugging_face


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture
def record(world):
    return world.boards()[0].records[0]


def test_each_average_is_an_entry_that_the_library_reads(record, tmp_path):
    results, _ = write_hugging_face([record], tmp_path, "lab")
    entries = parse_eval_result_entries(read(results))
    average = record.metrics["average"]
    prefix = f"val/{record.cell.protocol}/"
    found = {entry.task_id.removeprefix(prefix): entry for entry in entries}
    assert {name: entry.value for name, entry in found.items()} == {
        metric: interval.value for metric, interval in average.items()
    }
    assert {entry.dataset_id for entry in entries} == {"lab/theirs"}
    recall = average["R@1"]
    assert f"{recall.low:.2f} to {recall.high:.2f}, 30 queries" in found["R@1"].notes


def test_the_model_index_has_every_group_and_interval(record, tmp_path):
    _, index = write_hugging_face([record], tmp_path, "lab")
    name, results = model_index_to_eval_results(read(index)["model-index"])
    assert name == name_model(record)
    found = {result.metric_name: result for result in results}
    assert len(found) == len(results) == sum(map(len, record.metrics.values()))
    wanted = record.metrics["<hats>"]["mAP@5"]
    one = found["mAP@5, <hats>"]
    assert one.metric_value == wanted.value
    assert one.metric_args == {"low": wanted.low, "high": wanted.high, "queries": wanted.n}
    assert (one.dataset_config, one.dataset_split) == (record.cell.protocol, "val")


def test_models_have_folders_of_their_own_and_seeds_are_models(world, tmp_path):
    world.write(method="another")
    records = world.boards()[0].records
    paths = list(write_hugging_face(records, tmp_path, "lab"))
    assert len({path.relative_to(tmp_path).parts[0] for path in paths}) == 2
    assert [path.name for path in paths].count(INDEX) == 2
    assert all(path.parent.name == RESULTS for path in paths if path.name != INDEX)


@pytest.mark.parametrize("namespace", ["", "a/b", "a b", "../up"])
def test_a_namespace_that_the_hub_refuses_is_a_mistake(bench, world, namespace):
    code, _, error = bench("export", "hf", "--namespace", namespace, "--output", world.root)
    assert code == 2
    assert "--namespace must be a name that the Hub allows" in error
    assert not (world.root / "export").exists()
