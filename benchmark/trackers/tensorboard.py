"""TensorBoard, by torch's own writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cirbench.benchmark.trackers.hook import TrainingHook, import_library


class TensorBoardHook(TrainingHook):
    """Writes event files; `tensorboard --logdir FOLDER` shows them."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(name, folder, settings)
        import_library("tensorboard")  # which torch's writer needs
        self.writer = import_library("torch.utils.tensorboard").SummaryWriter(str(folder))
        self.writer.add_text("settings", f"`{json.dumps(settings, sort_keys=True)}`")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            self.writer.add_scalar(f"{self.name}/{key}", value, step)

    def close(self) -> None:
        self.writer.close()
