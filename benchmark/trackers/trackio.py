"""Trackio, Hugging Face's tracker on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cirbench.benchmark.trackers.hook import TrainingHook, import_library


class TrackioHook(TrainingHook):
    """Into Trackio's own folder on this machine (TRACKIO_DIR); no Space is named."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(name, folder, settings)
        self.trackio = import_library("trackio")
        self.trackio.init(project="cirbench", name=name, config=dict(settings))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.trackio.log(dict(numbers), step=step)

    def close(self) -> None:
        self.trackio.finish()
