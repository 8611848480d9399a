"""Made data of which no picture is drawn: enough for a plan, which opens none."""

from __future__ import annotations

from pathlib import Path

from cirbench.benchmark.api.registry import find_task


def write_layout(task: str, root: Path) -> None:
    """A task's made data in small, of empty pictures, and without the mark."""
    made = find_task(task)().make(full=False, seed=0)
    contents = {name: text.encode() for name, text in made.files.items()}
    for name, content in {**contents, **dict.fromkeys(made.pictures, b"")}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
