"""Fine-tuning CLIP for composed retrieval: `bench train clip-sum`, the Combiner's first stage.

ABaldrati/CLIP4Cir: the sum of the raw features of reference and text shall be nearest to its
target,

    q = n(x_i + x_t)        L = CE(100 q · n(targets))        n(x) = x / |x|

in one direction, with AdamW at 2e-6 and no schedule, and the towers in eval mode throughout (batch
norms keep their statistics, their affine parts are learned). Encoders: both (TOMM 2023), or the
text encoder alone (CVPRW 2022). The epoch that is best on the selection split is kept.

Every random number is a function of the seed and the epoch; a resumed training goes on from the
last whole epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cirbench.benchmark.api.values import Selection, TaskData, Triplet
from cirbench.benchmark.backbones.base import TorchBackbone
from cirbench.benchmark.backbones.tuned import CLIP_FILE
from cirbench.benchmark.checkpoints import write_checkpoint
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.images.preprocess import make_transform
from cirbench.benchmark.images.reading import load_picture, prefetch, split_into_chunks
from cirbench.benchmark.runtime.errors import CheckFailed, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.provenance import read_code_state, read_package_versions
from cirbench.benchmark.runtime.torch_state import full_float32
from cirbench.benchmark.training.epochs import EpochLog, EpochLoop
from cirbench.benchmark.training.features import embed_pictures
from cirbench.benchmark.training.learner import Learner, make_loss_scaler
from cirbench.benchmark.training.selection import describe_supervision, score_selection
from cirbench.benchmark.training.state import (
    as_stored,
    load_state,
    read_epochs,
    should_resume,
)
from cirbench.methods.baselines import ImageText
from cirbench.methods.combiner.method import contrastive_loss

ENCODERS = ("both", "text", "image")
_IMAGE_PARTS = ("visual", "vision_model", "pixels")


@dataclass(frozen=True, kw_only=True)
class ClipSumRecipe:
    """How CLIP is fine-tuned; the defaults are the released README's."""

    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 2e-6
    weight_decay: float = 0.01
    encoders: str = "both"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ClipSumJob:
    """A fine-tuning: what on, of what, where to (`output` is a folder)."""

    recipe: ClipSumRecipe
    backbone: TorchBackbone
    triplets: Sequence[Triplet]
    selection: Selection
    validation: TaskData
    trained_on: str
    output: Path
    workers: int = 2

    @property
    def state_path(self) -> Path:
        return self.output / "clip.state.safetensors"

    @property
    def log_path(self) -> Path:
        return self.output / "clip.log.csv"

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to be resumed, and what its weights' header says."""
        identity = {
            "recipe": {**asdict(self.recipe), "precision": self.backbone.precision},
            **describe_supervision(self.triplets, self.selection, self.validation),
        }
        return as_stored(identity)


def unfreeze_encoders(model: nn.Module, encoders: str) -> list[nn.Parameter]:
    """Make the encoders' parameters trainable; all others, and the temperature, stay frozen.

    Raises:
        UsageError: no encoders have that name.
    """
    if encoders not in ENCODERS:
        raise UsageError(f"unknown encoders {encoders!r}; known: {', '.join(ENCODERS)}")
    chosen = []
    for name, parameter in model.named_parameters():
        kind = "image" if name.startswith(_IMAGE_PARTS) else "text"
        if encoders in ("both", kind) and name != "logit_scale":
            parameter.requires_grad_(True)
            chosen.append(parameter)
    return chosen


def make_batches(job: ClipSumJob, epoch: int) -> Iterator[tuple[Tensor, list[str], Tensor]]:
    """(B, 3, S, S) references, B texts, (B, 3, S, S) targets; an incomplete batch is dropped."""
    rng = np.random.default_rng((job.recipe.seed, epoch))
    order = rng.permutation(len(job.triplets)).tolist()
    wording = rng.integers(1 << 30, size=len(order)).tolist()
    size = min(job.recipe.batch_size, len(order))
    order = order[: len(order) // size * size]
    transform = make_transform(job.selection.protocol.preprocess, job.backbone.image_spec)
    jobs = (
        partial(load_picture, ref, transform, row)
        for row in order
        for ref in (job.triplets[row].reference, job.triplets[row].target)
    )
    loaded = prefetch(jobs, workers=job.workers, ahead=4 * size)
    for start, chunk in zip(
        range(0, len(order), size), split_into_chunks(loaded, 2 * size), strict=True
    ):
        rows = order[start : start + size]
        pixels = torch.stack([picture for picture, _ in chunk])
        texts = [job.triplets[r].captions[wording[r] % len(job.triplets[r].captions)] for r in rows]
        yield pixels[0::2], texts, pixels[1::2]


@full_float32()
def train(job: ClipSumJob, reporter: Reporter, *, resume: bool = False) -> float:
    """Fine-tune, write the best epoch's towers and a log, give its selection score in percent.

    Raises:
        UsageError: no triplets, unknown encoders, a resume with another recipe, or a state that
            would be lost.
        CheckFailed: the loss is not finite; the state after the epoch before stays on disk.
    """
    if len(job.triplets) < 2:
        raise UsageError(f"training needs at least 2 triplets, got {len(job.triplets)}")
    model, base = job.backbone.model, job.backbone.weights_sha256
    optimizer = torch.optim.AdamW(
        unfreeze_encoders(model, job.recipe.encoders),
        lr=job.recipe.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-7,
        weight_decay=job.recipe.weight_decay,
    )
    learner = Learner(network=model, optimizer=optimizer, scaler=make_loss_scaler(job.backbone))
    save_memory(model)
    header = {
        **job.identity(),
        "base": job.backbone.name,
        "kind": "clip-sum",
        "base_weights": base,
        "trained_on": job.trained_on,
        "code": read_code_state(),
        "packages": read_package_versions(),
    }
    log: EpochLog = []
    if should_resume(job.state_path, resume=resume):
        provenance, _ = load_state(job.state_path, learner, job.identity())
        log = read_epochs(job.log_path, int(provenance["epochs"]))

    def keep_best(epoch: int, found: float) -> None:
        best = {**header, "best_epoch": epoch + 1, "selection_score": found}
        write_checkpoint(job.output / CLIP_FILE, model.state_dict(), best)

    loop = EpochLoop(
        epochs=job.recipe.epochs,
        learner=learner,
        identity=job.identity(),
        state_path=job.state_path,
        log_path=job.log_path,
        one_epoch=lambda epoch: _train_epoch(learner, job, epoch, reporter),
        score=lambda: score_towers(job),
        keep_best=keep_best,
    )
    with reporter.stage("epochs", job.recipe.epochs) as stage:
        best_score = loop.run(log, stage, reporter)
    job.state_path.unlink(missing_ok=True)
    return best_score


def save_memory(model: nn.Module) -> None:
    """Compute activations twice rather than keep them, where the library offers it.

    The released code does not, and its recipe then needs more than one 24 GB card.
    """
    offered: Any = getattr(model, "set_grad_checkpointing", None)
    if offered:
        offered(True)


def _train_epoch(
    learner: Learner[nn.Module], job: ClipSumJob, epoch: int, reporter: Reporter
) -> float:
    """Train one epoch, and give its mean loss."""
    losses = []
    steps = max(1, len(job.triplets) // job.recipe.batch_size)
    with reporter.stage(f"epoch {epoch + 1}", steps) as stage:
        for references, texts, targets in make_batches(job, epoch):
            images = job.backbone.encode_images(references)
            words = job.backbone.encode_texts(texts, truncate=True)
            composed = normalize(images + words, dim=-1)
            loss = contrastive_loss(composed, job.backbone.encode_images(targets))
            if not loss.isfinite():
                raise CheckFailed(
                    f"the loss must be finite, got {loss.item()} in epoch {epoch + 1}; --resume "
                    "continues from the epoch before; or try a lower --lr"
                )
            learner.optimizer.zero_grad()
            learner.scale(loss).backward()  # type: ignore[no-untyped-call]  # untyped in torch
            learner.step()
            losses.append(loss.item())
            stage.advance(1)
    return float(np.mean(losses))


def score_towers(job: ClipSumJob) -> float:
    """Score the sum of raw features on the selection split, by the towers as they stand."""
    protocol = replace(job.selection.protocol, image_text_sum="raw")
    images = embed_pictures(
        job.backbone,
        protocol.preprocess,
        job.validation.pictures.values(),
        job.workers,
        Reporter(quiet=True),
    )
    texts = TextFeatures(backbone=job.backbone, truncate=False)
    method = ImageText.build(backbone=job.backbone, checkpoint=None)
    selection = replace(job.selection, protocol=protocol)
    return score_selection(method, selection, job.validation, images, texts)
