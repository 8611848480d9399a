"""The wheel holds what the folders hold, and shadows nobody."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
from places import ROOT

ROOMS = ("benchmark", "datasets", "methods", "slurm")
GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")


def run(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(command, check=True, capture_output=True, cwd=folder, encoding="utf-8")
    return done.stdout


def build(folder: Path, what: str) -> Path:
    """What setuptools builds in `folder`, as pip has it."""
    code = f"from setuptools import build_meta; build_meta.build_{what}('dist')"
    run(folder, sys.executable, "-c", code)
    [made] = (folder / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkout of these files with the tag v9.8.7."""
    folder = tmp_path_factory.mktemp("source")
    for name in run(ROOT, "git", "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).is_file() and not name.startswith("results/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    run(folder, *GIT, "init", "-q")
    run(folder, *GIT, "add", ".")
    run(folder, *GIT, "commit", "-qm", "all")
    run(folder, *GIT, "tag", "v9.8.7")
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """The wheel as it is published: built from the source distribution."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(build(source, "sdist")) as archive:
        archive.extractall(unpacked, filter="data")
    return build(unpacked / "cirbench-9.8.7", "wheel")


def test_the_wheel_has_the_tags_version(wheel):
    assert wheel.name == "cirbench-9.8.7-py3-none-any.whl"


def test_the_wheel_holds_what_the_rooms_hold(source, wheel):
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.startswith("cirbench-9.8.7")}
    tracked = run(source, "git", "ls-files", *ROOMS).splitlines()
    wanted = {f"cirbench/{name.removeprefix('benchmark/face/')}" for name in tracked}
    assert packed - wanted == {"cirbench/benchmark/_build.json"}
    assert wanted - packed == {"cirbench/slurm/README.md"}
    assert "cirbench/py.typed" in packed


def test_the_wheel_of_a_source_distribution_knows_its_commit(source, wheel):
    with ZipFile(wheel) as archive:
        stamp = json.loads(archive.read("cirbench/benchmark/_build.json"))
    assert stamp == {"commit": run(source, "git", "rev-parse", "HEAD").strip(), "dirty": None}


def test_a_checkout_that_surrounds_the_sources_does_not_name_their_commit(source, tmp_path):
    copy = tmp_path / "sources"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".git", "dist", "build"))
    run(tmp_path, *GIT, "init", "-q")
    run(tmp_path, *GIT, "commit", "--allow-empty", "-qm", "another project")
    made = build(copy, "wheel")
    assert made.name == "cirbench-0.1.0.dev0-py3-none-any.whl"
    with ZipFile(made) as archive:
        assert "cirbench/benchmark/_build.json" not in archive.namelist()


def test_hugging_faces_datasets_is_not_shadowed():
    from transformers.utils import is_datasets_available

    installed = importlib.util.find_spec("datasets")
    assert installed is None or not Path(installed.origin or "/").is_relative_to(ROOT)
    assert is_datasets_available() == (installed is not None)


def test_the_build_is_stamped_with_the_commit(tmp_path):
    code = (
        "from cirbench.benchmark.runtime import provenance; "
        "print(provenance.read_code_state()['commit'])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        encoding="utf-8",
    )
    assert len(done.stdout.strip()) == 40
