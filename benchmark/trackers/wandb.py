"""Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cirbench.benchmark.trackers.hook import TrainingHook, import_library


class WandbHook(TrainingHook):
    """Offline, unless WANDB_MODE says otherwise; `wandb sync` sends what is there."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(name, folder, settings)
        folder.mkdir(parents=True, exist_ok=True)
        self.run = import_library("wandb").init(
            project="cirbench",
            name=name,
            dir=str(folder),
            config=dict(settings),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        self.run.finish()
