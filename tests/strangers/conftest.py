"""Strangers' inputs go through the command line, in this process, and leave nothing behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.runtime.progress import Reporter


@pytest.fixture
def bench(bench, monkeypatch, tmp_path):
    """The fixture of all tests, in an empty folder of its own."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return bench


@pytest.fixture
def refused(bench):
    """Runs bench, which must refuse: the documented code, one error of one paragraph, no output.

    Nothing that the command began may stay in the folder it ran in.
    """

    def call(code: int, *arguments: object, says: str | tuple[str, ...] = ()) -> str:
        before = files_below(Path())
        found, out, err = bench(*arguments)
        errors = [line for line in err.splitlines() if line.startswith("bench: error: ")]
        assert found == code, err
        assert len(errors) == 1, err
        assert "Traceback" not in err
        assert out == ""
        for part in (says,) if isinstance(says, str) else says:
            assert part in errors[0]
        assert files_below(Path()) == before
        return errors[0]

    return call


def files_below(folder: Path) -> dict[str, bytes]:
    """Path → content of every file."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Two whole records of random towers."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("made")
        patch.setenv("CIRBENCH_CACHE", str(folder / "cache"))
        request = Request(
            methods=("image-only", "text-only"),
            task="emoji",
            split="val",
            backbone="fake",
            output=folder / "results",
        )
        list(run(plan(request), Reporter(quiet=True)))
    return folder / "results"


@pytest.fixture
def results(made, bench):
    """A copy of them in the folder that bench runs in."""
    shutil.copytree(made, "results")
    return Path("results/emoji")
