"""Finds version and packages, and stamps the commit; the rest is in pyproject.toml."""

import hashlib
import json
import subprocess
from email import message_from_string
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
PACKED = ROOT / "PKG-INFO"
"""Only a source distribution has it."""
FOLDERS = ("benchmark", "datasets", "methods", "slurm")
COMING = "0.1.0"
"""The release that is worked on while there is no tag."""


def git(*arguments: str) -> bytes:
    """What git prints, asked at the root; FileNotFoundError where another checkout surrounds it."""
    if not (ROOT / ".git").exists():
        raise FileNotFoundError(f"{ROOT} is no checkout")
    command = ["git", "-C", ROOT, *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


def find_version() -> str:
    """The tag, v1.2.3, or what came after it; of a source distribution what it says of itself."""
    if PACKED.is_file():
        return message_from_string(PACKED.read_text(encoding="utf-8"))["Version"]
    try:
        commit = git("rev-parse", "--short", "HEAD").decode().strip()
        count = git("rev-list", "--count", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return f"{COMING}.dev0"
    try:
        described = git("describe", "--tags", "--long", "--match", "v[0-9]*").decode().strip()
    except subprocess.CalledProcessError:  # no tag, or a shallow clone without any
        return f"{COMING}.dev{count}+g{commit}"
    tag, since, _ = described.rsplit("-", 2)
    return tag[1:] if since == "0" else f"{tag[1:]}.post1.dev{since}+g{commit}"


def stamp_commit(folder: Path) -> None:
    """Write the commit into _build.json; a source distribution has its own."""
    if PACKED.is_file():
        return
    try:
        diff = git("diff", "HEAD", "--", ".", ":!results")
        commit = git("rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return
    stamp = {"commit": commit, "dirty": hashlib.sha256(diff).hexdigest() if diff else None}
    (folder / "_build.json").write_text(json.dumps(stamp), encoding="utf-8")


class StampedBuild(build_py):
    """An editable install is not stamped: it asks git when it runs."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            stamp_commit(Path(self.build_lib, "cirbench", "benchmark"))


class StampedSource(sdist):
    """What is published is built from a source distribution, where there is no git."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        stamp_commit(Path(base_dir, "benchmark"))


found = find_packages(
    include=[*FOLDERS, *(f"{folder}.*" for folder in FOLDERS)], exclude=["benchmark.face"]
)
setup(
    version=find_version(),
    packages=["cirbench", *(f"cirbench.{name}" for name in found)],
    cmdclass={"build_py": StampedBuild, "sdist": StampedSource},
)
