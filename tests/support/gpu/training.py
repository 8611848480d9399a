"""Whether a GPU trains as the CPU does, resumes, scales its loss, and halves batches."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.data.subsets import limit_queries
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, ImageFeatures, embed_images
from cirbench.benchmark.images.sources import find_training_images
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.training.selection import find_supervision
from cirbench.methods.combiner import method as combiner_method
from cirbench.methods.combiner import training as combiner
from cirbench.methods.pic2word import training as pic2word
from cirbench.methods.pic2word.batches import TrainingPictures
from gpu.findings import Finding, Setting, judge

QUIET = Reporter(quiet=True)
MOST = 1e-3
"""How far losses and weights may lie from the CPU's, relative to their own size."""
_FIRST_SCALE = 2.0**40
"""No gradient in float16 is finite at it."""
_FEW, _MANY = 128, 4096

Train = Callable[[str, Path, bool], Path]
"""Device, output and whether to resume → the log of what was trained."""


def check_training(setting: Setting) -> Iterator[Finding]:
    """Both trainings against the CPU's, then what only a GPU does."""
    trainings: dict[str, tuple[Train, Any]] = {
        "Pic2Word": (lambda *a: _train_pic2word(setting, *a), _stop_pic2word(setting)),
        "Combiner, without dropout": (lambda *a: _train_combiner(setting, *a), _stop_combiner()),
    }
    for name, (train, stop) in trainings.items():
        yield from _compare_training(setting, name, train, stop)
    yield from check_loss_scale(setting)
    yield from check_halving(setting)


def _compare_training(setting: Setting, name: str, train: Train, stop: Any) -> Iterator[Finding]:
    """Losses and weights of 20 steps against the CPU's, and against those after a resume."""
    folder, steps = setting.folder / name.split(",")[0], setting.sizes.steps
    outputs = {kind: folder / kind / "weights.safetensors" for kind in ("cpu", "own", "resumed")}
    logs = {"cpu": train("cpu", outputs["cpu"], False)}
    logs["own"] = train(setting.device, outputs["own"], False)
    yield from _compare_runs(f"{name}, {steps} steps against the CPU", logs, outputs, "cpu", "own")
    stopped = False
    try:
        with stop:
            train(setting.device, outputs["resumed"], False)
    except KeyboardInterrupt:
        stopped = True
    logs["resumed"] = train(setting.device, outputs["resumed"], True)
    label = f"{name}, stopped half-way and resumed"
    assert stopped, "the training must have been stopped"
    yield from _compare_runs(label, logs, outputs, "own", "resumed")


def _compare_runs(
    name: str, logs: dict[str, Path], outputs: dict[str, Path], left: str, right: str
) -> Iterator[Finding]:
    ours, theirs = (_read_losses(logs[kind]) for kind in (left, right))
    yield judge(f"{name}: losses", float(np.max(np.abs(ours / theirs - 1))), MOST)
    weights = [_flatten(read_checkpoint(outputs[kind]).content) for kind in (left, right)]
    apart = (weights[0] - weights[1]).norm() / weights[0].norm()
    yield judge(f"{name}: weights", apart.item(), MOST)


def _read_losses(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    with path.open(newline="", encoding="utf-8") as file:
        return np.array([float(row["loss"]) for row in csv.DictReader(file)])


def _flatten(weights: Any) -> Tensor:
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])


def make_pic2word_job(
    setting: Setting, device: str, output: Path, precision: str = "fp32"
) -> pic2word.Pic2WordJob:
    """So many steps on embedded pictures, cropped at random, with a rate that moves the weights."""
    refs, label = find_training_images("emoji")
    sizes = setting.sizes
    return pic2word.Pic2WordJob(
        recipe=pic2word.Pic2WordRecipe(
            epochs=1, batch_size=sizes.batch, learning_rate=1e-3, warmup_steps=sizes.steps // 4
        ),
        backbone=load_backbone(setting.sizes.trained, device=device, precision=precision),
        images=refs[: sizes.batch * sizes.steps],
        trained_on=label,
        output=output,
        workers=setting.cores,
    )


def _train_pic2word(setting: Setting, device: str, output: Path, resume: bool) -> Path:
    job = make_pic2word_job(setting, device, output)
    pic2word.train(job, QUIET, resume=resume)
    return job.log_path


def _stop_pic2word(setting: Setting) -> Any:
    """Ctrl-C before the step in the middle."""
    original = pic2word.train_step

    def step(learner: Any, job: Any, images: Tensor, number: int) -> float:
        if number == setting.sizes.steps // 2:
            raise KeyboardInterrupt
        return original(learner, job, images, number)

    return mock.patch.object(pic2word, "train_step", step)


def _train_combiner(setting: Setting, device: str, output: Path, resume: bool) -> Path:
    """Two epochs of half the steps each; dropout's numbers are a GPU's own, so it has none."""
    sizes = setting.sizes
    supervision = find_supervision("emoji", None)
    job = combiner.CombinerJob(
        **{
            **supervision,
            "triplets": supervision["triplets"][: sizes.batch * sizes.steps // 2],
            "validation": limit_queries(supervision["validation"], sizes.batch),
        },
        recipe=combiner.CombinerRecipe(
            epochs=2, batch_size=sizes.batch, learning_rate=1e-4, projection=256, hidden=512
        ),
        backbone=load_backbone(setting.sizes.trained, device=device),
        output=output,
        workers=setting.cores,
    )
    with mock.patch.object(combiner_method, "DROPOUT", 0.0):
        combiner.train(job, QUIET, resume=resume)
    return job.output.with_suffix(".log.csv")


def _stop_combiner() -> Any:
    """Ctrl-C in the second epoch."""
    original, scored = combiner.score_network, []

    def score(*arguments: Any) -> float:
        scored.append(arguments)
        if len(scored) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    return mock.patch.object(combiner, "score_network", score)


def check_loss_scale(setting: Setting) -> Iterator[Finding]:
    """Pic2Word under `amp`, from a loss scale at which the gradient overflows."""
    output = setting.folder / "amp.safetensors"
    job = make_pic2word_job(setting, setting.device, output, "amp")
    job = replace(job, recipe=replace(job.recipe, epochs=8))
    learner = pic2word.make_learner(job)
    learner.scaler.load_state_dict({**learner.scaler.state_dict(), "scale": _FIRST_SCALE})
    before = _flatten(learner.network.state_dict())
    pictures = TrainingPictures(refs=job.images, most_unreadable=0)
    skipped, moved, losses = 0, 0, []
    for step, images in enumerate(pic2word.embed_steps(job, pictures, 0)):
        losses.append(pic2word.train_step(learner, job, images, step))
        after = _flatten(learner.network.state_dict())
        skipped, moved = (
            skipped + torch.equal(before, after),
            moved + (not torch.equal(before, after)),
        )
        before = after
        if moved == setting.sizes.steps:
            break
    scale = learner.scaler.get_scale()
    yield Finding(
        what="Pic2Word under amp, from a loss scale of 2^40",
        value=float(skipped),
        shown=f"{skipped} steps left out, {moved} done at 2^{np.log2(scale):g}, loss "
        f"{losses[0]:.3f} → {losses[-1]:.3f}",
        target="some left out, some done, loss finite",
        ok=bool(skipped and moved and np.isfinite(losses).all()),
    )


def check_halving(setting: Setting) -> Iterator[Finding]:
    """Embedding with a batch that does not fit, in memory that is limited for it."""
    what = "a batch that exceeds memory is halved"
    if not setting.on_gpu:
        yield Finding(what=what, shown="not measured: only a GPU's memory can be limited")
        return
    expected, _ = _embed(setting, _FEW)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    _embed(setting, _FEW)
    memory = torch.cuda.get_device_properties(setting.device).total_memory
    limit = torch.cuda.max_memory_reserved() + 2**26
    torch.cuda.set_per_process_memory_fraction(limit / memory)
    try:
        found, batch = _embed(setting, _MANY)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    apart = (normalize(found.values, dim=1) - normalize(expected.values, dim=1)).abs().max().item()
    yield Finding(
        what=f"{what}: {_MANY} pictures within {limit / 2**20:,.0f} MB",
        value=float(batch),
        shown=f"done with {batch} at once",
        target=f"< {_MANY}",
        ok=batch < _MANY,
    )
    yield judge("vectors after halving against those of a batch that fits", apart, 1e-4)


def _embed(setting: Setting, batch: int) -> tuple[ImageFeatures, int]:
    refs, _ = find_training_images("emoji")
    size = BatchSize(value=batch)
    with QUIET.stage("gpu", len(refs)) as stage:
        embedder = Embedder(
            backbone=load_backbone(setting.sizes.trained, device=setting.device),
            preprocess="clip",
            size=size,
            workers=setting.cores,
            stage=stage,
        )
        return embed_images(embedder, refs), size.value
