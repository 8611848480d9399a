"""What `--texts` may name: a file of captions, or a task whose lessons have some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from cirbench.benchmark.api.registry import find_task, is_task
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.parsing import read_lines, read_table, say_nothing

_TABLES = (".csv", ".tsv")
_COLUMN = "caption"
_BATCHES_OF_LESSONS = 64


def find_training_texts(
    source: str,
    *,
    data_root: Path | None = None,
    say: Callable[[str], object] = say_nothing,
) -> tuple[Sequence[str], str]:
    """The captions, none of them empty, and a label for what was trained on.

    Args:
        source: a task, of whose lessons the distinct texts of the first batches are taken; a .csv
            or .tsv file with a column `caption`; or a file with one a line.
        data_root: where a task's lessons lie, if it has none of its own.
        say: is told how many of a file are empty.

    Raises:
        MissingData: it is neither a file nor a task, or nothing is in it.
        UsageError: the task has no lessons.
        CorruptData: as `read_table` and `read_lines`.
    """
    if is_task(source):  # a file of that name is ./emoji
        task: Task = find_task(source)()
        batches = task.lessons(data_root=data_root).draw_batches(np.random.default_rng(0))
        drawn = [lesson.text for batch in islice(batches, _BATCHES_OF_LESSONS) for lesson in batch]
        return list(dict.fromkeys(drawn)), f"{task.name} captions"
    path = Path(source)
    if not path.is_file():
        raise MissingData(f"--texts must be a file of captions or a task, got {source}")
    if path.suffix.lower() in _TABLES:
        written = [row[_COLUMN] for row in read_table(path, [_COLUMN], say=say)]
    else:
        written = read_lines(path)
    texts = [text for text in written if text.strip()]
    if not texts:
        raise MissingData(f"{path} holds no captions")
    if len(texts) < len(written):
        say(f"{path}: {len(written) - len(texts):,} of {len(written):,} captions are empty")
    return texts, path.stem
