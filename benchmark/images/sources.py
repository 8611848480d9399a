"""What `--images` may name: a folder, a table, webdataset shards, or a task with such images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cirbench.benchmark.api.registry import find_task, is_task
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.leftovers import count_beside_shards
from cirbench.benchmark.images.reading import Say, find_images_in_folder, read_image_table
from cirbench.benchmark.images.shards import ShardImages, find_shards
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.parsing import say_nothing
from cirbench.benchmark.runtime.paths import to_text


def find_training_images(
    source: str,
    *,
    data_root: Path | None = None,
    column: str = "filepath",
    separator: str | None = None,
    say: Say = say_nothing,
) -> tuple[Sequence[ImageRef], str]:
    """The pictures, and a label for what was trained on.

    Args:
        data_root: where a task's pictures lie, if it has none of its own.
        column, separator: of a table.
        say: is told what of a folder or of shards was skipped.

    Raises:
        MissingData: it is neither a folder, nor a file, nor webdataset shards, nor a task.
    """
    if is_task(source):  # a folder of that name is ./emoji
        task: Task = find_task(source)()
        return task.training_images(data_root=data_root), task.name
    path = Path(source)
    if path.is_dir() and (shards := find_shards(source)):
        for remark in count_beside_shards(path, shards).remarks():
            say(f"{to_text(path)}: {remark}")
        return ShardImages(shards, say), path.resolve().name
    if source.endswith(".tar") and not path.is_dir():
        return ShardImages(find_shards(source), say), path.parent.resolve().name
    if path.is_dir():
        return find_images_in_folder(path, say), path.resolve().name
    if path.is_file():
        return read_image_table(path, column, separator, say), path.stem
    raise MissingData(f"--images must be a folder, a table, shards or a task, got {source}")
