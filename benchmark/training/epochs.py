"""The loop of a training in epochs, of which the best on the selection split is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cirbench.benchmark.runtime.progress import Stage
from cirbench.benchmark.training.learner import Learner
from cirbench.benchmark.training.state import save_state, write_epochs

EpochLog = list[tuple[float, float]]
"""Mean loss and selection score of each epoch."""


@dataclass(frozen=True, kw_only=True)
class EpochLoop:
    """What differs between trainings in epochs.

    Attributes:
        one_epoch: trains the epoch of that number, from 0, and gives the mean loss.
        score: the selection score of the network as it stands.
        keep_best: is told the epoch and its score, where it is the best so far.
        saved_besides: tensors that the state holds besides the network's and the optimizer's.
    """

    epochs: int
    learner: Learner[Any]
    identity: Mapping[str, Any]
    state_path: Path
    log_path: Path
    one_epoch: Callable[[int], float]
    score: Callable[[], float]
    keep_best: Callable[[int, float], None]
    saved_besides: Callable[[], Mapping[str, Tensor]] = dict

    def run(self, log: EpochLog, stage: Stage) -> float:
        """Train the epochs that `log` lacks, which is added to, and give the best score.

        Log and state are on disk after every epoch.
        """
        stage.advance(len(log))
        for epoch in range(len(log), self.epochs):
            loss, found = self.one_epoch(epoch), self.score()
            if found > max((score for _, score in log), default=-1.0):
                self.keep_best(epoch, found)
            log.append((loss, found))
            write_epochs(self.log_path, log)
            progress = {**self.identity, "epochs": len(log)}
            save_state(self.state_path, self.learner, progress, self.saved_besides())
            stage.advance(1)
        return max(score for _, score in log)
