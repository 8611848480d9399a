"""Made data: written whole below a folder, and told from a task's own by a mark beside them.

They stand in for data that a person does not have yet, so that disk, settings and every command can
be tried. The mark lies in the top folder of a task's data, and goes with it wherever it is moved.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cirbench.benchmark.api.task import Place, Task
from cirbench.benchmark.api.values import MadeData
from cirbench.benchmark.images.reading import prefetch
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.files import remove_abandoned, temporary_folder
from cirbench.benchmark.runtime.paths import to_text
from cirbench.benchmark.runtime.progress import Reporter

MARK = "MADE.json"
REMARK = "the data are made up (bench data make), so the numbers say nothing of the task itself"
_SAMPLES = 16
"""Pictures that are drawn beforehand, to tell how long and how large all will be."""


def is_made(root: Path | None, places: Sequence[Place]) -> bool:
    """Whether what a task reads below `root` is made, or a part of it, wherever a link leads."""
    found = [path.resolve() for place in places if root and (path := place.find(root))]
    return any((folder / MARK).is_file() for path in found for folder in (path, *path.parents))


def write_made(
    task: Task, output: Path, *, full: bool, seed: int, reporter: Reporter
) -> Sequence[Path]:
    """Write a task's made data below `output`, all of it or nothing; give its top folders.

    Args:
        full: as many pictures and queries as are released, else a few.

    Raises:
        UsageError: `output` holds something that is not made, or this task's made data already,
            or the disk has too little room.
    """
    made = task.make(full=full, seed=seed)
    tops = sorted({path.partition("/")[0] for path in (*made.files, *made.pictures)})
    _check_output(output, tops)
    _announce(made, output, reporter)
    mark = {"task": task.name, "seed": seed, "full": full, "credit": made.credit}
    with temporary_folder(output) as folder:
        for name, text in made.files.items():
            _write(folder / name, text.encode())
        jobs = (partial(_draw, folder / name, draw) for name, draw in made.pictures.items())
        with reporter.stage("drawing", len(made.pictures)) as stage:
            for _ in prefetch(jobs, workers=os.cpu_count() or 1, ahead=64):
                stage.advance(1)
        task.prepare(data_root=folder, seed=seed, reporter=reporter)
        for top in tops:
            _write(folder / top / MARK, (json.dumps(mark, indent=2) + "\n").encode())
        return [(folder / top).rename(output / top) for top in tops]


def _check_output(output: Path, tops: Sequence[str]) -> None:
    """Check that nothing but other tasks' made data lies in a folder."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {to_text(output)} must be a folder, got a file")
    if not output.exists():
        return
    remove_abandoned(output.absolute())
    for path in sorted(output.iterdir()):
        if path.name in tops or not (path / MARK).is_file():
            raise UsageError(
                f"--output {to_text(output)} must be empty or hold other tasks' made data, got "
                f"{path.name}; choose another folder, or remove it"
            )


def _announce(made: MadeData, output: Path, reporter: Reporter) -> None:
    """Say how large and how long the pictures will be, by a few of them.

    Raises:
        UsageError: the disk has less room than that.
    """
    draws = list(made.pictures.values())
    chosen = draws[:: max(1, len(draws) // _SAMPLES)]
    chosen[0]()  # opens the pack, which is no part of a picture's time
    started = time.perf_counter()
    size = sum(len(draw()) for draw in chosen)
    seconds = (time.perf_counter() - started) * len(draws) / len(chosen) / (os.cpu_count() or 1)
    megabytes = size * len(draws) / len(chosen) / 1e6
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e6
    if megabytes > free:
        raise UsageError(
            f"--output {to_text(output)} must have room for {megabytes:,.0f} MB, got {free:,.0f} "
            f"MB; choose another disk"
        )
    reporter.say(
        f"{len(draws):,} pictures: about {megabytes:,.0f} MB and {max(1, round(seconds)):,} s"
    )


def _draw(path: Path, draw: Callable[[], bytes]) -> None:
    _write(path, draw())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
