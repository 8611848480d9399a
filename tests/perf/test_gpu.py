"""The script behind `make gpu`, on the CPU: that each part works and what it finds is kept."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from perf import gpu
from perf.needs import list_needs

CPU = torch.device("cpu")


@pytest.fixture
def bench(tmp_path):
    return gpu.Bench(CPU, gpu.SMALL, tmp_path)


@pytest.mark.parametrize("part", gpu.list_parts(gpu.SMALL))
def test_each_part_finds_the_cpu_equal_to_itself(bench, part):
    found = list(gpu.list_parts(gpu.SMALL)[part](bench))
    held = [one for one in found if one.ok is not None and "fp32" in one.what]
    assert found
    assert all(one.ok for one in held), held


def test_a_difference_is_found(bench, monkeypatch):
    embed, calls = gpu._embed, []

    def embed_otherwise(*given):
        features = embed(*given)
        calls.append(features)
        features.values[5] += 0.01 * len(calls)
        return features

    monkeypatch.setattr(gpu, "_embed", embed_otherwise)
    [found] = gpu.check_features(bench)
    assert found.ok is False


def answers(top, similarity, first_rank=1, fragile=False):
    per_query = SimpleNamespace(
        top=np.array([top]),
        similarity=np.array([similarity], dtype=np.float32),
        first_rank=np.array([first_rank]),
        fragile=np.array([fragile]),
    )
    metrics = {"average": {"R@1": SimpleNamespace(value=50.0)}}
    return SimpleNamespace(metrics=metrics, read_per_query=lambda: per_query)


@pytest.mark.parametrize(
    ("ours", "theirs", "moved"),
    [
        (answers([1, 2, 3], [0.9, 0.5, 0.1]), answers([1, 3, 2], [0.9, 0.5, 0.1]), 1),
        (answers([1, 2, 3], [0.9, 0.5, 0.500001]), answers([1, 3, 2], [0.9, 0.5, 0.5]), 0),
        (answers([1, 2], [0.9, 0.5]), answers([1, 7], [0.9, 0.5]), 0),  # 7 may tie with our last
        (answers([1, 2], [0.9, 0.5]), answers([7, 2], [0.9, 0.5]), 1),
        (answers([1], [0.9]), answers([1], [0.9], first_rank=2), 1),
        (answers([1], [0.9], fragile=True), answers([1], [0.9], first_rank=2), 0),
    ],
)
def test_only_items_that_score_alike_may_change_places(ours, theirs, moved):
    assert gpu._compare(ours, theirs) == (moved, 0)


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_others(
    bench, tmp_path, monkeypatch, capsys
):
    def fail(_bench):
        yield gpu.Finding(what="one thing", found="1", target="≤ 2", ok=True)
        raise RuntimeError("it broke")

    def wait(_bench):
        yield gpu.Finding(what="another", found="3", target="≤ 2", ok=False)
        while True:
            pass

    parts = {"broken": fail, "endless": wait, "late": fail}
    monkeypatch.setattr(gpu, "list_parts", lambda _sizes: parts)
    monkeypatch.setattr(gpu, "SECONDS", 1)
    gpu.work_off(bench, list(parts), tmp_path / "out")
    told = json.loads((tmp_path / "out" / "gpu.json").read_text(encoding="utf-8"))
    assert [part["error"] for part in told["parts"].values()] == [
        "RuntimeError: it broke",
        "TimeoutError: it took longer than 1 s",
        "left out: no time",
    ]
    page = (tmp_path / "out" / "gpu.md").read_text(encoding="utf-8")
    assert "CPU, no GPU" in page
    assert "| one thing | 1       | ≤ 2      | ok |" in page
    assert "| another | 3       | ≤ 2      | MISSED |" in page
    assert "it broke" in capsys.readouterr().out


def test_an_unknown_part_and_a_missing_gpu_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, said in ((["--only", "nothing"], "known: features"), ([], "CUDA GPU")):
        with pytest.raises(SystemExit):
            gpu.main([str(tmp_path), *arguments])
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_a_gpu_machine_lacks_is_listed_without_what_it_has():
    needs = list_needs()
    assert {"open-clip-torch", "pydantic-core", "timm"} <= needs.keys()
    assert not needs.keys() & {"torch", "triton", "numpy", "transformers", "matplotlib"}
