"""The script behind `make gpu`, without a GPU: that every part works, and that nothing stops it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from gpu import command, packages
from gpu.correctness import count_differences
from gpu.embedding import Tower
from gpu.findings import SMALL, Setting, judge
from gpu.page import NO_GPU, draw_page
from places import ROOT

MACHINE = {
    "device": "cuda",
    "gpu": "NVIDIA H100",
    "gpu_memory_gib": 79.2,
    "cpu": "a CPU",
    "cores": 16,
    "python": "3.12.3",
    "torch": "2.11.0",
    "cuda": "13.0",
}


@pytest.fixture
def children(monkeypatch):
    """Child processes find the script where this one does."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/support"))


def told_by(name):
    found = {"findings": []}

    def tell(told):
        for kind, value in told.items():
            if kind == "finding":
                found["findings"].append(value)
            else:
                found[kind] = value

    command.tell_part(name, "cpu", tell)
    return found


@pytest.mark.parametrize("name", command.PARTS)
def test_a_part_finds_no_fault_of_the_cpu_against_itself(name):
    found = told_by(name)
    assert found["machine"]["gpu"] is None
    assert found["peak"]["ram"] > 0
    wrong = [f for f in found["findings"] if f["ok"] is False and "slowest stage" not in f["what"]]
    assert wrong == []
    assert name == "compile" or not any("failed" in f["shown"] for f in found["findings"])
    assert found["findings"]
    json.dumps(found, allow_nan=False)


def test_the_parts_stay_below_six_minutes_together():
    assert sum(part.seconds for part in command.PARTS.values()) <= 350


def test_what_a_part_found_is_kept_and_the_next_one_runs(children, tmp_path, monkeypatch, capfd):
    parts = {
        "ranking": command.PARTS["ranking"],
        "embedding": replace(command.PARTS["embedding"], seconds=0),
    }
    monkeypatch.setattr(command, "PARTS", parts)
    with pytest.raises(SystemExit) as ended:
        command.main([str(tmp_path), "--device", "cpu", "--parts", "embedding", "ranking"])
    assert ended.value.code == 1
    results = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    ranking, embedding = results["parts"]
    assert embedding["error"] == "stopped after 0 s; what follows was not measured"
    assert ranking["error"] is None
    assert len(ranking["findings"]) == 2
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert page == draw_page(results)
    assert NO_GPU in page
    assert ranking["findings"][0]["what"] in page
    assert "parts that did not end: embedding" in page


def test_a_machine_without_the_device_writes_nothing(children, tmp_path, capfd):
    (tmp_path / "gpu.json").write_text('{"machine": {}, "parts": []}', encoding="utf-8")
    with pytest.raises(SystemExit):
        command.main([str(tmp_path), "--device", "cuda:99", "--parts", "ranking"])
    assert "device 'cuda:99' cannot be used" in capfd.readouterr().out
    assert not (tmp_path / "gpu.md").exists()


def test_an_error_of_a_part_is_told_in_a_sentence(monkeypatch):
    def broken(_setting):
        yield judge("first", 1, 2)
        raise RuntimeError("the card is gone\nand more")

    monkeypatch.setattr(command, "_find_function", lambda _part: broken)
    told = []
    with pytest.raises(RuntimeError):
        command.tell_part("ranking", "cpu", told.append)
    assert [one["finding"]["what"] for one in told if "finding" in one] == ["first"]
    assert told[-1] == {"error": "RuntimeError: the card is gone"}


def part(name, **changes):
    empty = {"commit": "c0ffee", "seconds": 3.0, "peak": {"gpu": 5000.0}, "findings": []}
    return {"name": name, "title": name, "error": None, **empty, **changes}


def test_parts_of_an_earlier_run_stay_if_the_machine_is_the_same(tmp_path):
    first = command.Results(tmp_path)
    first.know_machine(MACHINE)
    first.begin("ranking")["seconds"] = 7
    first.write()
    for machine, kept in (
        (MACHINE, ["ranking", "compile"]),
        ({**MACHINE, "gpu": "B"}, ["compile"]),
    ):
        again = command.Results(tmp_path)
        again.begin("compile")
        again.know_machine(machine)
        again.write()
        written = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
        assert [one["name"] for one in written["parts"]] == kept


def test_the_page_names_the_card_and_marks_what_was_missed():
    findings = [
        {"what": "a|b", "shown": "2", "value": 2, "target": "≤ 1", "ok": False},
        {"what": "c", "shown": "fast", "value": None, "target": "", "ok": None},
    ]
    page = draw_page({"machine": MACHINE, "parts": [part("ranking", findings=findings)]})
    assert "on NVIDIA H100 (79.2 GiB), with a CPU, 16 cores" in page
    assert NO_GPU not in page
    assert "1 targets missed; every part ended." in page
    assert r"a\|b" in page
    assert page.count("MISSED") == 1
    assert "5,000 MB of GPU memory" in page


def answers(top, similarity, first_rank=(1,), fragile=(False,)):
    class Answers:
        pass

    found = Answers()
    found.top, found.similarity = np.array(top), np.array(similarity, dtype=np.float32)
    found.first_rank, found.fragile = np.array(first_rank), np.array(fragile)
    return found


@pytest.mark.parametrize(
    ("top", "similarity", "first_rank", "counts"),
    [
        ([[1, 2, 3]], [[0.9, 0.5, 0.1]], [1], (1, 0, 0, 0)),
        ([[1, 3, 2]], [[0.9, 0.5, 0.1]], [1], (1, 1, 0, 0)),  # 2 and 3 are far apart
        ([[2, 1, 3]], [[0.9, 0.5, 0.1]], [2], (1, 1, 1, 0)),
        ([[1, 2, 7]], [[0.9, 0.5, 0.1]], [1], (1, 0, 0, 1)),  # at most what the last one scores
    ],
)
def test_only_items_that_score_alike_may_change_places(top, similarity, first_rank, counts):
    ours = answers([[1, 2, 3]], [[0.9, 0.5, 0.1]])
    assert count_differences(ours, answers(top, similarity, first_rank)) == counts


def test_a_change_of_places_among_ties_is_counted_apart():
    ours = answers([[1, 2, 3]], [[0.9, 0.5, 0.500001]])
    assert count_differences(ours, answers([[1, 3, 2]], [[0.9, 0.5, 0.5]])) == (1, 0, 0, 1)


def test_a_fragile_first_rank_may_move():
    ours = answers([[1]], [[0.9]], fragile=[True])
    assert count_differences(ours, answers([[1]], [[0.9]], first_rank=[2])) == (1, 0, 0, 0)


def test_towers_of_open_clip_have_random_weights_and_can_be_cast(tmp_path):
    setting = Setting(device="cpu", folder=tmp_path, sizes=replace(SMALL, tower_batch=2))
    tower = Tower.make(setting, "ViT-S-32-alt")
    assert tower.pixels.shape == (2, 3, 224, 224)
    assert tower.in_precision("bf16").forward_rate(rounds=1) > 0


def test_what_is_missing_is_named_with_the_way_to_bring_it(monkeypatch, tmp_path):
    monkeypatch.setattr(
        packages, "_read_requirements", lambda: [("torch", ">=99"), ("numpy", ">=1")]
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(packages.PackagesMissing, match=r"lacks torch>=99; .*run make wheels"):
        packages.provide_packages(tmp_path)
