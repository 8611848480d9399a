"""The code that runs is the code that was submitted: a wheel of the checkout, unpacked.

A job that starts tomorrow imports from there, whatever has been edited since. An installed
distribution does not change under a sweep, and is used as it is.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from cirbench.benchmark.runtime import provenance
from cirbench.benchmark.runtime.errors import CheckFailed
from cirbench.slurm.cells.manifest import Manifest

_ROOMS = ("benchmark", "methods", "datasets", "slurm")


@dataclass(frozen=True, kw_only=True)
class JobCode:
    """The code that jobs run.

    Attributes:
        folder: a snapshot, None for the code as it is installed.
    """

    commit: str | None
    dirty: str | None
    folder: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the jobs; the first keeps folders like `datasets/` off their path."""
        safe = {"PYTHONSAFEPATH": "1"}
        if self.folder is None:
            return safe
        path = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**safe, "PYTHONPATH": ":".join(path)}


def choose_code(manifest: Manifest, *, snapshot: bool = True) -> JobCode:
    """Choose the code of a submission; `build_snapshot` makes the snapshot."""
    state = provenance.read_code_state()
    root = find_checkout()
    folder = None
    if snapshot and root is not None:
        folder = (
            manifest.folder / "snapshots" / f"{(state['commit'] or '')[:8]}-{_hash_packages(root)}"
        )
    return JobCode(commit=state["commit"], dirty=state["dirty"], folder=folder)


def build_snapshot(code: JobCode) -> None:
    """Make the snapshot, unless the sweep has one of the same files.

    Raises:
        CheckFailed: the wheel can't be built.
    """
    root = find_checkout()
    if root is not None and code.folder is not None and not code.folder.is_dir():
        _build(root, code.folder)


def find_checkout() -> Path | None:
    """Find the checkout this code runs from; None for an installed distribution."""
    root = provenance.find_source_root()
    return root if (root / ".git").exists() and (root / "pyproject.toml").is_file() else None


def _hash_packages(root: Path) -> str:
    """Hash every file of the packages, also those not added to git yet."""
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root)}|".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:8]


def _build(root: Path, folder: Path) -> None:
    """Build and unpack aside; the folder is there only when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        aside = Path(name)
        # else setuptools would build inside the checkout, and pack what earlier builds left there
        config = aside / "build.cfg"
        config.write_text(
            f"[build]\nbuild_base={aside}/build\n[egg_info]\negg_base={aside}\n", encoding="utf-8"
        )
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--disable-pip-version-check",
            "--wheel-dir",
            str(aside),
            str(root),
        ]
        environment = {**os.environ, "DIST_EXTRA_CONFIG": str(config), "PYTHONSAFEPATH": "1"}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            cwd=aside,
            check=False,
            encoding="utf-8",
        )
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise CheckFailed(
                f"the snapshot of {root} cannot be built as a wheel ({' '.join(last)}); pip "
                "install 'setuptools>=77', or submit with --no-snapshot"
            )
        [wheel] = aside.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(aside / "unpacked")
        (aside / "unpacked").rename(folder)
