"""What the tests of sweeps share: `bench` in this process, sweep files, and waiting."""

from __future__ import annotations

import json
import os
import shutil
import sys
from functools import cache
from pathlib import Path

import sweep_faults
from patience import wait_until

from cirbench.benchmark.api import registry
from cirbench.benchmark.cli.main import main
from cirbench.slurm.cells.manifest import OPEN, Manifest
from cirbench.slurm.status import refresh_status

SMALL = """
methods = {methods}
tasks = ["emoji"]
backbones = ["fake"]
[settings]
limit = 1
[resources]
timeout_min = 30
cpus_per_task = 1
mem_gb = 1
"""

TRAINING = """
methods = ["pic2word"]
tasks = ["emoji"]
backbones = ["fake"]
protocols = ["emoji"]
[settings]
limit = 1
[[train]]
method = "pic2word"
backbone = "fake"
images = "{images}"
epochs = {epochs}
batch_size = 8
warmup_steps = 10
checkpoint_every = 20
[resources]
timeout_min = 30
cpus_per_task = 1
mem_gb = 1
"""
TOWERS = """
methods = ["artemis", "image-only"]
tasks = ["emoji"]
backbones = ["tiny", "emoji-clip"]
[settings]
limit = 1
[[train]]
method = "artemis"
backbone = "tiny"
task = "emoji"
width = 8
word_width = 4
first_epochs = 0
epochs = {epochs}
[[train]]
method = "artemis"
backbone = "emoji-clip"
task = "emoji"
width = 8
first_epochs = 0
epochs = 1
[resources]
timeout_min = 30
cpus_per_task = 1
mem_gb = 2
"""
SHARDS = """
methods = {methods}
tasks = ["kin"]
backbones = ["{backbone}"]
{more}
[resources]
timeout_min = 30
cpus_per_task = 1
mem_gb = 1
"""
TWO_TASKS = """
[[override]]
method = "train"
tasks_per_node = 2
"""


def install_faults(folder: Path, monkeypatch) -> None:
    """Makes the faults known as a plug-in, here and in every job that is started from here."""
    shutil.copy(sweep_faults.__file__, folder)
    info = folder / "sweep_faults-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: sweep-faults\nVersion: 0\n", encoding="utf-8"
    )
    classes = [
        c for c in vars(sweep_faults).values() if hasattr(c, "happen") and hasattr(c, "name")
    ]
    lines = [f"{c.name} = sweep_faults:{c.__name__}" for c in classes if c.name]
    (info / "entry_points.txt").write_text(
        "\n".join(
            [
                "[cirbench.methods]",
                *lines,
                "[cirbench.backbones]",
                "broken = sweep_faults:broken_backbone",
                "half-dead = sweep_faults:half_dead_backbone",
                "mortal = sweep_faults:mortal_backbone",
            ]
        ),
        encoding="utf-8",
    )
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{known}" if known else str(folder))
    monkeypatch.setenv("FAULTS", str(folder))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(registry, "_entries", cache(registry._entries.__wrapped__))


class Sweeps:
    """Runs `bench sweep` in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch, capsys) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        monkeypatch.chdir(folder)

    def __call__(self, *arguments) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self.monkeypatch.setattr(sys, "argv", ["bench", "sweep", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        return code, *self.capsys.readouterr()

    def file(self, name: str, text: str = "", *, methods=("image-only",)) -> Path:
        """Writes a sweep file; without a text, of some methods on the fake backbone."""
        path = self.folder / f"{name}.toml"
        path.write_text(text or SMALL.format(methods=json.dumps(list(methods))), encoding="utf-8")
        return path

    def manifest(self, name: str) -> Manifest:
        return Manifest(folder=self.folder / "sweeps" / name)

    def rows(self, name: str) -> dict:
        """Method, or kind where there is none → row."""
        return {
            (row.cell.request.get("methods") or [row.cell.kind])[0]: row
            for row in refresh_status(self.manifest(name))
        }

    def statuses(self, name: str) -> dict[str, str]:
        return {method: row.state.status for method, row in self.rows(name).items()}

    def wait(self, name: str, **statuses: str) -> dict:
        """Until these methods are in these states, else until all have ended; gives the rows."""

        def reached() -> bool:
            now = {k.replace("-", "_"): v for k, v in self.statuses(name).items()}
            if statuses:
                return all(now[method] == status for method, status in statuses.items())
            return not set(now.values()) & set(OPEN)

        try:
            wait_until(reached, f"{statuses or 'end'}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self(*('status', name))[1]}") from None
        return self.rows(name)
