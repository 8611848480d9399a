"""MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cirbench.benchmark.trackers.hook import TrainingHook, import_library


class MlflowHook(TrainingHook):
    """Into a file beside the training's output, unless MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(name, folder, settings)
        folder.mkdir(parents=True, exist_ok=True)
        here = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        client = import_library("mlflow").MlflowClient(
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", here)
        )
        experiment = client.get_experiment_by_name("cirbench")
        known = experiment.experiment_id if experiment else client.create_experiment("cirbench")
        self.client, self.run = client, client.create_run(known, run_name=name).info.run_id
        for key, value in settings.items():
            client.log_param(self.run, key, value)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            self.client.log_metric(self.run, key, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.run)
