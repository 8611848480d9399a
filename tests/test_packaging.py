"""The wheel holds what the folders hold, and shadows nobody."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_folder_is_listed():
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    rooms = ("benchmark", "methods", "datasets", "slurm")
    found = {
        ".".join(["cirbench", *path.parent.relative_to(ROOT).parts])
        for room in rooms
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert listed == found
    assert all((ROOT / Path(*name.split(".")[1:]) / "py.typed").is_file() for name in found)


def test_hugging_faces_datasets_is_not_shadowed():
    from transformers.utils import is_datasets_available

    installed = importlib.util.find_spec("datasets")
    assert installed is None or not Path(installed.origin or "/").is_relative_to(ROOT)
    assert is_datasets_available() == (installed is not None)


def test_the_build_is_stamped_with_the_commit(tmp_path):
    code = "from cirbench.benchmark.provenance import code_state; print(code_state()['commit'])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        encoding="utf-8",
    )
    assert len(done.stdout.strip()) == 40
