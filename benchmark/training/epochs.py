"""The loop of a training in epochs, of which the best on the selection split is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cirbench.benchmark.checkpoints import write_checkpoint
from cirbench.benchmark.runtime.progress import Reporter, Stage
from cirbench.benchmark.runtime.provenance import read_code_state, read_package_versions
from cirbench.benchmark.training.learner import Learner
from cirbench.benchmark.training.state import load_state, read_epochs, save_state, write_epochs

EpochLog = list[tuple[float, float]]
"""Mean loss and selection score of each epoch; the score is not a number where none is asked."""


@dataclass(frozen=True, kw_only=True)
class EpochLoop:
    """What differs between trainings in epochs.

    Attributes:
        one_epoch: trains the epoch of that number, from 0, and gives the mean loss.
        score: the selection score of the network as it stands; None: the last epoch is kept.
        keep_best: is told the epoch and its score, where it is the best so far.
        saved_besides: tensors that the state holds besides the network's and the optimizer's.
    """

    epochs: int
    learner: Learner[Any]
    identity: Mapping[str, Any]
    state_path: Path
    log_path: Path
    one_epoch: Callable[[int], float]
    score: Callable[[], float] | None
    keep_best: Callable[[int, float], None]
    saved_besides: Callable[[], Mapping[str, Tensor]] = dict

    def run(self, log: EpochLog, stage: Stage, reporter: Reporter) -> float:
        """Train the epochs that `log` lacks, which is added to, and give the score that was kept.

        Log and state are on disk after every epoch.
        """
        stage.advance(len(log))
        for epoch in range(len(log), self.epochs):
            loss, found = self.one_epoch(epoch), self.score() if self.score else math.nan
            if not self.score or found > max((score for _, score in log), default=-1.0):
                self.keep_best(epoch, found)
            log.append((loss, found))
            write_epochs(self.log_path, log)
            progress = {**self.identity, "epochs": len(log)}
            save_state(self.state_path, self.learner, progress, self.saved_besides())
            stage.advance(1)
            reporter.tell(epoch + 1, loss=loss, **({"selection": found} if self.score else {}))
        return max(score for _, score in log) if self.score else math.nan


def state_path_of(output: Path) -> Path:
    """Where an unfinished training of a file of weights is kept."""
    return output.with_suffix(".state.safetensors")


def train_in_epochs(
    learner: Learner[Any],
    *,
    epochs: int,
    identity: Mapping[str, Any],
    header: Mapping[str, Any],
    output: Path,
    one_epoch: Callable[[int], float],
    score: Callable[[], float] | None,
    reporter: Reporter,
    resume: bool,
) -> float:
    """Train a network, write the best epoch's weights and a log, and give its score in percent.

    Without a `score` the last epoch's weights are written.

    Args:
        header: what the file of weights says besides the identity and its best epoch.
        resume: whether there is a state to go on from.
    """
    network, state_path = learner.network, state_path_of(output)
    log_path = output.with_suffix(".log.csv")
    log: EpochLog = []
    best: dict[str, Tensor] = {}

    def keep_best(_epoch: int, _score: float) -> None:
        best.update({name: tensor.clone() for name, tensor in network.state_dict().items()})

    if resume:
        provenance, saved = load_state(state_path, learner, identity)
        best.update(saved)
        log = read_epochs(log_path, int(provenance["epochs"]))
    loop = EpochLoop(
        epochs=epochs,
        learner=learner,
        identity=identity,
        state_path=state_path,
        log_path=log_path,
        one_epoch=one_epoch,
        score=score,
        keep_best=keep_best,
        saved_besides=lambda: best,
    )
    with reporter.stage("training", epochs) as stage:
        best_score = loop.run(log, stage, reporter)
    chosen = {
        "best_epoch": int(np.argmax([score for _, score in log])) + 1,
        "selection_score": best_score,
    }
    written = {
        **identity,
        **header,
        **(chosen if score else {"final_loss": log[-1][0]}),
        "code": read_code_state(),
        "packages": read_package_versions(),
    }
    write_checkpoint(output, best, written)
    state_path.unlink(missing_ok=True)
    return best_score
