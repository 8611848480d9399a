"""Plug-ins that fail stop nothing but themselves."""

from __future__ import annotations

import pytest

from cirbench.benchmark.api import registry

WORKING = "cirbench.methods.baselines:TextOnly"
BROKEN = {
    "sys.exit": ("import sys; sys.exit(3)", "Thing", "SystemExit"),
    "an exception": ("raise RuntimeError('odd')", "Thing", "odd"),
    "a mistake of syntax": ("def (", "Thing", "SyntaxError"),
    "a division by zero": ("1 / 0", "Thing", "ZeroDivisionError"),
    "no such module": (None, "Thing", "ModuleNotFoundError"),
    "no such attribute": ("x = 1", "Thing", "Thing"),
    "a class that is no method": ("class Thing: pass", "Thing", "must be a class"),
    "a number": ("Thing = 7", "Thing", "must be a class"),
    "a module that needs another": ("import nothing_of_that_name", "Thing", "nothing_of_that_name"),
}


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """Installs a distribution with one method, whose module has this source."""

    def install(distribution, name, target, source=None):
        module = target.partition(":")[0]
        folder = tmp_path / "site" / f"{distribution}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", encoding="utf-8"
        )
        (folder / "entry_points.txt").write_text(
            f"[cirbench.methods]\n{name} = {target}\n", encoding="utf-8"
        )
        if source is not None:
            (tmp_path / "site" / f"{module}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path / "site")
        registry._entries.cache_clear()

    yield install
    registry._entries.cache_clear()


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plug_in_is_left_out_aloud(bench, plug_in, case):
    source, attribute, says = BROKEN[case]
    name = f"stranger_{sorted(BROKEN).index(case)}"
    plug_in("stranger", "odd", f"{name}:{attribute}", source)
    run = ("run", "-t", "emoji", "-b", "fake", "--limit", "1", "-q", "-o", "r")
    code, _, err = bench(*run, "-m", "all")
    assert code == 0
    assert err.count("bench: warning: ") == 1
    assert "of stranger" in err
    assert bench("ls")[0] == 0
    assert bench(*run, "-m", "image-only")[0] == 0
    code, _, err = bench(*run, "-m", "odd")
    assert code == 2
    assert err.count("bench: error: ") == 1
    assert "of stranger" in err
    assert says in err


def test_a_plug_in_takes_no_built_in_name(bench, plug_in):
    plug_in("rival", "image-only", "rival:Thing", "raise RuntimeError('never imported')")
    code, out, err = bench("ls", "methods", "--json")
    assert code == 0
    assert "rival (rival:Thing)" in err
    assert "the reference picture" in out


def test_of_two_plug_ins_with_one_name_neither_runs(bench, plug_in):
    plug_in("one", "mine", WORKING)
    plug_in("other", "mine", "other:Thing")
    code, _, err = bench("run", "-m", "mine", "-t", "emoji", "-q")
    assert code == 2
    assert "uninstall one" in err
    assert bench("run", "-m", "image-only", "-t", "emoji", "-b", "fake", "--limit", "1")[0] == 0
