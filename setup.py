"""Finds version and packages, and stamps the commit; the rest is in pyproject.toml."""

import hashlib
import json
import subprocess
from email import message_from_string
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
FOLDERS = ("benchmark", "datasets", "methods", "slurm")
COMING = "0.1.0"
"""The release that is worked on while there is no tag."""


def git(*arguments: str) -> bytes:
    """What git prints, asked at the root."""
    command = ["git", "-C", ROOT, *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


def find_version() -> str:
    """The tag, v1.2.3, or what came after it; of a source distribution what it says of itself."""
    packed = ROOT / "PKG-INFO"
    if packed.is_file():
        return message_from_string(packed.read_text(encoding="utf-8"))["Version"]
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


class StampedBuild(build_py):
    """An editable install is not stamped: it asks git when it runs."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        try:
            diff = git("diff", "HEAD", "--", ".", ":!results")
            commit = git("rev-parse", "HEAD").decode().strip()
        except (OSError, subprocess.CalledProcessError):
            return
        stamp = {"commit": commit, "dirty": hashlib.sha256(diff).hexdigest() if diff else None}
        target = Path(self.build_lib, "cirbench", "benchmark", "_build.json")
        target.write_text(json.dumps(stamp), encoding="utf-8")


found = find_packages(
    include=[*FOLDERS, *(f"{folder}.*" for folder in FOLDERS)], exclude=["benchmark.face"]
)
setup(
    version=find_version(),
    packages=["cirbench", *(f"cirbench.{name}" for name in found)],
    cmdclass={"build_py": StampedBuild},
)
