"""The wheel holds what the folders hold, and shadows nobody."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from places import ROOT


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
