"""What was running where: the commit, the versions and the hardware behind a record."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

PACKAGES = (
    "cirbench",
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "transformers",
    "tokenizers",
    "ftfy",
    "regex",
    "numpy",
    "pillow",
    "safetensors",
)


@dataclass(frozen=True, kw_only=True)
class Code:
    """The commit, and the sha256 of uncommitted changes, where there are any."""

    commit: str | None
    dirty: str | None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Code, versions and hardware; `packages` is distribution → version."""

    code: Code
    python: str
    packages: Mapping[str, str | None]
    platform: str
    cpu: str
    cpu_count: int | None
    gpu: str | None


def read_git_state(root: Path) -> dict[str, str | None] | None:
    """The commit of a checkout, and the sha256 of its uncommitted diff (None where it is clean).

    None where `root` is no checkout's root, or git is not there.
    """
    if not (root / ".git").exists():
        return None
    try:
        commit = _ask_git(root, "rev-parse", "HEAD").decode().strip()
        diff = _ask_git(root, "diff", "HEAD", "--", ".", ":!results")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": hashlib.sha256(diff).hexdigest() if diff else None}


def _ask_git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], check=True, capture_output=True
    ).stdout


def find_source_root() -> Path:
    """The folder above the packages: a checkout's root, or that of an installed `cirbench`."""
    return Path(str(files("cirbench.benchmark"))).resolve().parent


@cache
def read_code_state() -> dict[str, str | None]:
    """The commit this code came from: stamped when the wheel was built, else asked of git."""
    stamp = Path(str(files("cirbench.benchmark") / "_build.json"))
    if stamp.is_file():
        state: dict[str, str | None] = json.loads(stamp.read_text(encoding="utf-8"))
        return state
    return read_git_state(find_source_root()) or {"commit": None, "dirty": None}


def read_package_versions() -> dict[str, str | None]:
    """Version by distribution, None where one is not installed."""

    def one(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: one(name) for name in PACKAGES}


def describe_environment(device: str = "cpu") -> Environment:
    """Find out code, versions and hardware, for a record."""
    return Environment(
        code=Code(**read_code_state()),
        python=platform.python_version(),
        packages=read_package_versions(),
        platform=platform.platform(),
        cpu=_read_cpu_model(),
        cpu_count=os.cpu_count(),
        gpu=_read_gpu_name(device),
    )


def _read_cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def _read_gpu_name(device: str) -> str | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.get_device_name(device)


def read_peak_memory_bytes() -> int:
    """The most resident memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
