"""Sweep files and clusters as they are met."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cirbench.slurm.queues import squeue as queue

SWEEP = """
methods = ["image-only", "text-only"]
tasks = ["emoji"]
backbones = ["fake"]
[settings]
limit = 1
"""
SEEDS = "seeds must be a non-empty list of integers from 0 to 4294967295, got"
WRONG = {
    "a seed that no generator takes": (
        "seeds = [99999999999999999999]",
        SEEDS,
    ),
    "a seed below 0": ("seeds = [-1]", SEEDS),
    "seeds of text": ('seeds = ["one"]', SEEDS),
    "seeds of truth": ("seeds = [true]", SEEDS),
    "no seeds": ("seeds = []", SEEDS),
    "a misspelt key": ("sedes = [1]", "did you mean seeds"),
    "no toml": ("= = =", "toml"),
    "half a character": ("name = '\ud800'", ""),
}


@pytest.fixture
def file(bench):
    def write(text):
        content = text if "methods" in text else f"{text}\n{SWEEP}"
        Path("mine.toml").write_bytes(content.encode("utf-8", "surrogatepass"))
        return "mine.toml"

    return write


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_sweep_file_submits_nothing(bench, file, case):
    text, says = WRONG[case]
    code, out, err = bench("sweep", "submit", file(text), "--cluster", "debug")
    assert code in (2, 4), err
    assert says in err
    assert "Traceback" not in err
    assert out == ""
    assert not Path("sweeps").exists()


def test_training_free_methods_run_once(bench, file):
    code, out, _ = bench("sweep", "submit", file(f"seeds = [3, 4]\n{SWEEP}"), "--dry-run", "--json")
    assert code == 0
    cells = [cell["cell"] for cell in json.loads(out)["cells"]]
    assert len(cells) == 3, cells  # one embedding, two runs


def test_a_sweep_that_is_submitted_again_after_the_code_changed_says_so(bench, file, monkeypatch):
    states = iter([{"commit": "a" * 40, "dirty": None}, {"commit": "b" * 40, "dirty": None}])
    monkeypatch.setattr("cirbench.slurm.planning.read_code_state", lambda: next(states))
    path = file(f'name = "mine"\n{SWEEP}')
    assert bench("sweep", "submit", path, "--cluster", "debug")[0] == 0
    plan = json.loads(Path("sweeps/mine/sweep.json").read_text(encoding="utf-8"))
    assert plan["commit"] == "a" * 40
    code, _, err = bench("sweep", "submit", path, "--cluster", "debug")
    assert code == 0
    assert "the code has changed" in err
    assert "aaaaaaaa, now bbbbbbbb" in err


ANSWERS = {
    "sbatch: error: Required node not available (down, drained or reserved)": False,
    "allocation failure: Nodes required for job are DOWN, DRAINED or reserved for jobs": False,
    "allocation failure: Requested nodes are busy": False,
    "sbatch: error: invalid partition specified: gpu9": True,
    "allocation failure: Requested node configuration is not available": True,
    "": True,
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_only_what_can_never_be_had_is_refused(monkeypatch, answer):
    done = subprocess.CompletedProcess([], 1, stdout="", stderr=answer)
    monkeypatch.setattr(queue, "_ask", lambda *_, **__: done)
    assert (queue.find_refusal("#!/bin/sh") is not None) == ANSWERS[answer]
