"""The saved state of an unfinished training: weights, optimizer, and what identifies it."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Checkpoint
from cirbench.benchmark.checkpoints import first_line, read_checkpoint, write_checkpoint
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.files import write_whole
from cirbench.benchmark.training.learner import Learner


def should_resume(path: Path, *, resume: bool) -> bool:
    """Tell whether a training resumes from the saved state at `path`.

    Raises:
        UsageError: there is one, and none was asked for; it would be lost.
    """
    if path.exists() and not resume:
        raise UsageError(
            f"{path} holds an unfinished training; pass --resume to continue it, or delete the "
            "file to start over"
        )
    return path.exists()


def identify_backbone(backbone: Backbone) -> dict[str, str]:
    """What of a frozen backbone must be the same for a training to be resumed."""
    return {
        "name": backbone.name,
        "weights": backbone.weights_sha256,
        "precision": backbone.precision,
    }


def describe_lines(lines: Iterable[str]) -> dict[str, Any]:
    """What a resume compares and a header keeps of many lines: how many, and their sha256."""
    count, digest = 0, hashlib.sha256()
    for count, line in enumerate(lines, start=1):
        digest.update(f"\n{line}".encode() if count > 1 else line.encode())
    return {"count": count, "sha256": digest.hexdigest()}


def as_stored(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as JSON gives it back, to be compared with one that was read."""
    stored: dict[str, Any] = json.loads(json.dumps(identity))
    return stored


def save_state(
    path: Path,
    learner: Learner[Any],
    provenance: Mapping[str, Any],
    more: Mapping[str, Tensor] | None = None,
) -> None:
    """Save everything a resume needs, as tensors and JSON."""
    tensors = {f"network.{name}": tensor for name, tensor in learner.network.state_dict().items()}
    for name, parameter in learner.network.named_parameters():
        for key, value in learner.optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    tensors |= {f"more.{name}": tensor for name, tensor in (more or {}).items()}
    write_checkpoint(path, tensors, {**provenance, "loss_scale": learner.scaler.state_dict()})


def load_state(
    path: Path, learner: Learner[Any], identity: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Restore a saved state; give its provenance and what was saved besides.

    Args:
        identity: section → its fields; what must be the same for the training to be the same.

    Raises:
        UsageError: it is of another training; the fields that differ are named.
        CorruptData: its weights are not of this network.
    """
    saved = read_state(path, identity)
    network = learner.network
    try:
        network.load_state_dict({n: saved.content[f"network.{n}"] for n in network.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise CorruptData(
            f"{path} must hold the weights of this network ({first_line(error)}); delete the file "
            "to start over"
        ) from error
    learner.scaler.load_state_dict(saved.provenance.get("loss_scale", {}))
    for name, parameter in network.named_parameters():
        learner.optimizer.state[parameter] = {
            key: value.to(parameter.device if value.dim() else "cpu")
            for key, value in _select_prefix(saved.content, f"optimizer.{name}.").items()
        }
    return saved.provenance, _select_prefix(saved.content, "more.")


def read_state(path: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """Read what an unfinished training saved.

    Raises:
        UsageError: as `load_state`.
    """
    saved = read_checkpoint(path)
    if differing := _list_differences(saved.provenance, identity):
        raise UsageError(
            f"{path} belongs to another training ({differing}); pass the same options, or delete "
            "the file to start over"
        )
    return saved


def _list_differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{part}.{key}: {saved.get(part, {}).get(key)} then, {value} now"
        for part, fields in now.items()
        for key, value in fields.items()
        if saved.get(part, {}).get(key) != value
    )


def _select_prefix(content: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in content.items() if k.startswith(prefix)}


def write_epochs(path: Path, log: Sequence[tuple[float, float]]) -> None:
    """Write mean loss and selection score of each epoch as CSV."""
    with (
        write_whole(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("epoch", "loss", "selection_score"))
        rows.writerows((i, repr(a), repr(b)) for i, (a, b) in enumerate(log, start=1))


def read_epochs(path: Path, epochs: int) -> list[tuple[float, float]]:
    """Read the first `epochs` rows of what `write_epochs` wrote.

    Raises:
        CorruptData: it is not there, damaged, or shorter.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            log = [(float(r["loss"]), float(r["selection_score"])) for r in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptData(f"{path} cannot be read ({error}); start over") from error
    if len(log) < epochs:
        raise CorruptData(f"{path} must have {epochs} epochs, got {len(log)}; start over")
    return log[:epochs]
