"""Names the packages, and stamps the commit into what is built; the rest is in pyproject.toml."""

import hashlib
import json
import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


def git(*arguments: str) -> bytes:
    """What git prints, asked at the root."""
    root = Path(__file__).parent
    return subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True).stdout


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


FOLDERS = ("benchmark", "datasets", "methods", "slurm")
found = find_packages(
    include=[*FOLDERS, *(f"{folder}.*" for folder in FOLDERS)], exclude=["benchmark.face"]
)
packages = ["cirbench", *(f"cirbench.{name}" for name in found)]
setup(packages=packages, cmdclass={"build_py": StampedBuild})
