"""A tiny CLIP is not run on a task whose held-out pictures its own lessons showed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import permutations
from pathlib import Path

from cirbench.benchmark.api.registry import split_name
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.evaluation.weights import read_header
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.parsing import read_json


def check_unseen(task: Task, backbone: str) -> None:
    """A backbone must not have learned from a task that shares pictures with this one.

    Raises:
        UsageError: it has, itself or in what it was tuned from.
        CorruptData: a folder's description cannot be read.
    """
    for other in find_lessons(backbone):
        if other in task.shares_pictures_with:
            raise UsageError(
                f"{backbone} must not be run on {task.name}: it was trained on {other}, and has "
                f"seen pictures that {task.name} holds out; take --backbone {task.default_backbone}"
            )


def check_apart(tasks: Sequence[Task]) -> None:
    """One CLIP must not be trained on tasks that share pictures.

    Raises:
        UsageError: two of them do.
    """
    for one, other in permutations(tasks, 2):
        if other.name in one.shares_pictures_with:
            raise UsageError(
                f"one CLIP must not be trained on {one.name} and {other.name}: each shows pictures "
                f"that the other holds out; train one each"
            )


def find_lessons(backbone: str) -> Sequence[str]:
    """The tasks on whose lessons a backbone, by its full name, was trained; as its folder says."""
    _, name = split_name(backbone)
    kind, _, rest = name.partition(":")
    if kind == "tuned":
        base, _, _ = rest.rpartition("@")
        base = base or str(read_header(Path(rest) / "clip.safetensors").get("base", ""))
        return find_lessons(base)
    if kind == "local-dir":
        return _read_tasks(Path(rest))
    shipped, ending, _ = name.partition("-clip")
    folder = Path(str(files("cirbench.datasets"))) / shipped / "clip"
    return _read_tasks(folder) if ending and shipped.isidentifier() else ()


def _read_tasks(folder: Path) -> Sequence[str]:
    path = folder / "open_clip_config.json"
    config = read_json(path) if path.is_file() else None
    recipe = config.get("recipe") if isinstance(config, dict) else None
    tasks = recipe.get("tasks") if isinstance(recipe, dict) else None
    return tasks if isinstance(tasks, list) else ()
