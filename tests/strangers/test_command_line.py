"""What people type, in the shells and places they type it in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from cirbench.benchmark.runtime.errors import UNFORESEEN

RUN = ("run", "-m", "image-only", "-t", "emoji", "-b", "fake", "--limit", "1", "-q")
BENCH = [sys.executable, "-P", "-c", "from cirbench.benchmark.cli.main import main; main()"]
LOCALES = {
    "ascii streams": {"PYTHONIOENCODING": "ascii"},
    "the C locale": {
        "LC_ALL": "C",
        "LANG": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    },
    "another backend": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
}


def bench_outside(arguments, **environment):
    """In a process of its own, which a locale needs."""
    return subprocess.run(
        [*BENCH, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )


@pytest.mark.parametrize("case", LOCALES)
def test_any_locale_and_backend_will_do(bench, case):
    for arguments in (("ls",), ("--help",), (*RUN, "-o", "é".encode(), "--label", "検索".encode())):
        done = bench_outside(arguments, **LOCALES[case])
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


def test_a_hostile_backend_costs_no_plots(results, bench, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    assert bench("leaderboard")[0] == 0
    assert list(results.glob("*.png"))


@pytest.mark.parametrize(
    "error", [RuntimeError("odd"), KeyError("x"), RecursionError("deep"), OSError(5, "I/O error")]
)
def test_what_nobody_foresaw_is_no_checks_answer(bench, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("cirbench.benchmark.analysis.boards.read_boards", fail)
    code, _, err = bench("leaderboard")
    assert code == UNFORESEEN == 70
    assert "Traceback" in err
    assert "please report" in err


REFUSED = {
    "a seed below 0": ((*RUN, "--seed", "-1"), 2),
    "a seed that no generator takes": ((*RUN, "--seed", "99999999999999999999"), 2),
    "a device without numbers": ((*RUN, "--device", "meta"), 2),
    "a device that is not there": ((*RUN, "--device", "cuda:7"), 2),
    "a device of no kind": ((*RUN, "--device", "gpu"), 2),
    "a cache mode": ((*RUN, "--cache", "never"), 2),
    "a protocol": ((*RUN, "--protocol", "none"), 2),
    "a split": ((*RUN, "--split", "none"), 2),
    "a precision": ((*RUN, "--precision", "fp8"), 2),
    "a method": (("run", "-m", "pic2wrod", "-t", "emoji"), 2),
    "a task": (("run", "-m", "image-only", "-t", "emojis"), 2),
    "no data root": (("run", "-m", "image-only", "-t", "cirr", "-b", "fake"), 3),
    "a data root that is not there": (
        ("run", "-m", "image-only", "-t", "cirr", "-b", "fake", "--data-root", "/nowhere"),
        3,
    ),
    "a checkpoint before any weights": (
        (
            "run",
            "-m",
            "pic2word",
            "-t",
            "emoji",
            "-b",
            "ViT-L-14/openai",
            "--checkpoint",
            "nope.pt",
        ),
        3,
    ),
    "no records": (("leaderboard",), 3),
    "nothing of that name": (("info", "nothing"), 2),
    "a kind of names": (("ls", "everything"), 2),
    "nothing to compare": (("compare", "a", "b"), 3),
    "nothing published": (("verify", "-m", "nothing"), 2),
    "nothing to prune": (("cache", "prune"), 2),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_clear_error(bench, case):
    arguments, code = REFUSED[case]
    found, out, err = bench(*arguments)
    assert found == code, err
    assert "Traceback" not in err
    assert out == ""
    assert not list(Path().rglob("*.json"))


def test_a_partial_run_beside_the_folder_it_is_in(bench):
    assert bench(*RUN, "-o", ".")[0] == 0
    [record] = Path("work-partial/emoji").glob("*.json")
    assert json.loads(record.read_text(encoding="utf-8"))["run"]["partial"]


def test_in_a_clone_runs_go_where_git_ignores_them(bench):
    Path("pyproject.toml").write_text('[project]\nname = "cirbench"\n', encoding="utf-8")
    Path("results").mkdir()
    whole = [part for part in RUN if part not in ("--limit", "1")]
    assert bench(*whole, "--split", "val")[0] == 0
    assert bench("leaderboard")[0] == 0
    assert list(Path("runs/emoji").glob("*.json"))
    assert not list(Path("results").iterdir())
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8")
    assert "runs/" in ignored.split()


def test_a_label_is_in_the_record(bench):
    code, out, _ = bench(*RUN, "--label", "first try", "--json")
    assert code == 0
    assert json.loads(out)["cell"]["label"] == "first try"
