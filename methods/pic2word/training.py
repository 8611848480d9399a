"""Training Pic2Word's mapping network on unlabelled pictures: `bench train pic2word`.

The recipe is the README's of the released code (google-research/composed_image_retrieval): AdamW
with no decay on biases, warm-up then cosine per step, RandomResizedCrop with scale 0.9 to 1.

Every random number is a function of the seed and of the step, epoch or picture it is for. So a
training that was interrupted and resumed ends, on the CPU, with the same bits as an unbroken one.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.training import Training, TrainingRequest
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import write_checkpoint
from cirbench.benchmark.embedding.pictures import fill_tower
from cirbench.benchmark.evaluation.plan import choose_device
from cirbench.benchmark.images.preprocess import make_fit
from cirbench.benchmark.images.reading import prefetch, split_into_chunks
from cirbench.benchmark.images.sources import find_training_images
from cirbench.benchmark.runtime.errors import CheckFailed, CorruptData, UsageError
from cirbench.benchmark.runtime.files import write_whole
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.provenance import read_code_state, read_package_versions
from cirbench.benchmark.runtime.torch_state import full_float32, seeded
from cirbench.benchmark.training import state as training_state
from cirbench.benchmark.training.learner import Learner, make_loss_scaler
from cirbench.benchmark.training.order import choose_rows
from cirbench.benchmark.training.processes import Processes, choose_own_device, join_processes
from cirbench.benchmark.training.schedule import warm_up_then_cosine
from cirbench.benchmark.training.signals import defer_signals
from cirbench.methods.pic2word.batches import TrainingPictures, augment
from cirbench.methods.pic2word.gradient import GradientStep, draw_dropout_masks
from cirbench.methods.pic2word.method import DROPOUT, MappingNetwork
from cirbench.methods.pic2word.validation import Validator

PROMPT = "a photo of *"
_EMBEDDED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Pic2WordRecipe:
    """How the mapping network is trained; the defaults are the released README's.

    `batch_size` is that of all processes together.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-4
    weight_decay: float = 0.1
    warmup_steps: int = 10_000
    middle_width: int = 512
    layers: int = 2
    dropout: float = DROPOUT
    crop_scale: tuple[float, float] = (0.9, 1.0)
    prompt: str = PROMPT
    augment: bool = True
    """Off: each picture is embedded once, uncropped, and epochs run over these embeddings."""
    released_gather: bool = False
    """Several processes: the gradient divided by their number, as the released code has it."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Pic2WordJob:
    """A training: what on, with what, where to."""

    recipe: Pic2WordRecipe
    backbone: Backbone
    images: Sequence[ImageRef]
    trained_on: str
    output: Path
    workers: int = 2
    checkpoint_every: int = 500
    processes: Processes = field(default_factory=Processes)
    micro_batch: int | None = None
    """How many pictures and texts go through the towers at once; changes memory, no gradient."""
    most_unreadable: float = 0.0
    validation: Sequence[ImageRef] = ()
    """Pictures that are not trained on."""
    validate_every: int = 500

    @property
    def steps_per_epoch(self) -> int:
        """Incomplete batches are dropped."""
        return len(self.images) // self.recipe.batch_size

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.recipe.epochs

    @property
    def state_path(self) -> Path:
        """Where an unfinished training is kept."""
        return self.output.with_suffix(".state.safetensors")

    @property
    def validation_path(self) -> Path:
        return self.output.with_suffix(".validation.csv")

    @property
    def log_path(self) -> Path:
        return self.output.with_suffix(".log.csv")

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to be resumed, and what its weights' header says."""
        digest = hashlib.sha256("\n".join(ref.id for ref in self.images).encode())
        identity = {
            "recipe": asdict(self.recipe),
            "trained_on": self.trained_on,
            "images": {"count": len(self.images), "ids_sha256": digest.hexdigest()},
            "backbone": training_state.identify_backbone(self.backbone),
        }
        return training_state.as_stored(identity)


class Pic2WordTraining(Training):
    """On unlabelled pictures, by as many processes as there are."""

    source = "images"
    recipe = Pic2WordRecipe
    parallel = True

    def train(self, request: TrainingRequest, reporter: Reporter, *, resume: bool) -> None:
        refs, label = find_training_images(
            request.source, data_root=request.data_root, say=reporter.say
        )
        where = choose_device(request.device)
        processes = join_processes(where)
        backbone = load_backbone(
            request.backbone,
            device=choose_own_device(where, processes),
            precision=request.precision,
        )
        job = Pic2WordJob(
            recipe=Pic2WordRecipe(**request.recipe),
            backbone=backbone,
            images=refs,
            trained_on=label,
            output=request.output,
            workers=request.workers,
            checkpoint_every=request.checkpoint_every,
            processes=processes,
        )
        train(job, reporter, resume=resume)


def make_optimizer(
    mapper: MappingNetwork, recipe: Pic2WordRecipe, backbone_name: str
) -> torch.optim.AdamW:
    """Make AdamW without decay of biases, with betas and eps as in the released code."""
    biases = [p for name, p in mapper.named_parameters() if name.endswith("bias")]
    weights = [p for name, p in mapper.named_parameters() if not name.endswith("bias")]
    resnet = backbone_name.startswith("RN")
    return torch.optim.AdamW(
        [
            {"params": biases, "weight_decay": 0.0},
            {"params": weights, "weight_decay": recipe.weight_decay},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.999) if resnet else (0.9, 0.98),
        eps=1e-8 if resnet else 1e-6,
    )


def embed_steps(job: Pic2WordJob, pictures: TrainingPictures, first_step: int) -> Iterator[Tensor]:
    """Yield (b, C) raw image embeddings of this process's rows for each step from `first_step`."""
    recipe, own = job.recipe, job.processes.choose_rows(job.recipe.batch_size)
    steps = (
        (
            step // job.steps_per_epoch,
            choose_rows(step, len(job.images), recipe.batch_size, recipe.seed)[own],
        )
        for step in range(first_step, job.steps)
    )
    if recipe.augment:
        batches = augment(
            pictures,
            steps,
            size=own.stop - own.start,
            seed=recipe.seed,
            side=job.backbone.image_spec.size,
            scale=recipe.crop_scale,
            workers=job.workers,
        )
        yield from (_encode_in_pieces(job, rows) for rows in batches)
        return
    fixed = embed_once(job, pictures)
    for _, rows in steps:
        yield fixed[rows].to(job.backbone.device)


@torch.no_grad()
def _encode_in_pieces(job: Pic2WordJob, rows: Sequence[Tensor]) -> Tensor:
    backbone, parts = job.backbone, split_into_chunks(rows, job.micro_batch or len(rows))
    return torch.cat([backbone.encode_images(fill_tower(backbone, "clip", part)) for part in parts])


def embed_once(job: Pic2WordJob, pictures: TrainingPictures) -> Tensor:
    """(N, C) on the CPU: every picture as evaluation would see it."""
    fit = make_fit("clip", job.backbone.image_spec.size)
    jobs = (partial(pictures.load, row, lambda _row: fit) for row in range(len(pictures.refs)))
    size = job.micro_batch or _EMBEDDED_AT_ONCE
    loaded = prefetch(jobs, workers=job.workers, ahead=2 * size)
    chunks = split_into_chunks(loaded, size)
    return torch.cat([_encode_in_pieces(job, chunk).cpu() for chunk in chunks])


def compute_gradient(
    learner: Learner[MappingNetwork], job: Pic2WordJob, images: Tensor, step: int
) -> Tensor:
    """Compute the step's gradient in the mapper, and give the whole batch's loss."""
    recipe, mapper = job.recipe, learner.network
    masks = draw_dropout_masks(mapper, recipe.batch_size, recipe.seed * 1_000_003 + step)
    return GradientStep(
        network=mapper,
        backbone=job.backbone,
        prompt=recipe.prompt,
        images=images,
        masks=masks,
        processes=job.processes,
        piece=job.micro_batch,
        released_gather=recipe.released_gather,
    ).backward(learner.scale)


@full_float32()
def train(job: Pic2WordJob, reporter: Reporter, *, resume: bool = False) -> float:
    """Train, write `job.output` and the loss log beside it, and give the last loss.

    Raises:
        UsageError: fewer pictures than a batch, a resume with another recipe, or a state that
            would be lost.
        CheckFailed: the loss is not finite; the last good state stays on disk.
    """
    if job.steps_per_epoch == 0:
        raise UsageError(
            f"a batch must be no larger than the pictures, got {job.recipe.batch_size} of "
            f"{len(job.images)}; lower --batch-size"
        )
    going_on = training_state.should_resume(job.state_path, resume=resume)
    learner = make_learner(job)
    first = load_state(job, learner) if going_on else 0
    reporter.say(f"{job.steps} steps, from step {first + 1}, on {len(job.images)} pictures")
    losses = _read_log(job, first)
    pictures = TrainingPictures(refs=job.images, most_unreadable=job.most_unreadable)
    watch = _make_validator(job, first)
    learner.network.train()
    # A step is whole or not done: Ctrl-C in between saves a state that a resume can start from.
    try:
        with reporter.stage("training", job.steps) as stage:
            stage.advance(first)
            for step, images in enumerate(embed_steps(job, pictures, first), start=first):
                with defer_signals():
                    losses.append(train_step(learner, job, images, step))
                stage.advance(1)
                reporter.tell(step + 1, loss=losses[-1])
                if found := watch.validate_if_due(step + 1, learner.network):
                    reporter.tell(step + 1, held_out=found.loss, recall_at_1=found.recall_at_1)
                if (step + 1) % job.checkpoint_every == 0 and step + 1 < job.steps:
                    save_state(job, learner, losses)
    except KeyboardInterrupt:
        save_state(job, learner, losses)
        reporter.say(
            f"interrupted after step {len(losses)}; the same command with --resume continues"
        )
        raise
    if job.processes.rank:  # the first process alone writes
        return losses[-1]
    for remark in pictures.remarks():
        reporter.say(remark)
    header = {
        **job.identity(),
        "kind": "pic2word",
        "final_loss": losses[-1],
        "unreadable": pictures.report(),
        "validation": watch.last,
        "code": read_code_state(),
        "packages": read_package_versions(),
    }
    write_checkpoint(job.output, learner.network.state_dict(), header)
    job.state_path.unlink(missing_ok=True)
    _write_log(job, losses)
    try:
        from cirbench.benchmark.training.loss_plot import write_loss_plot  # matplotlib

        write_loss_plot(job.output.with_suffix(".loss.png"), losses, watch.points)
    except Exception as error:  # no fault of a drawing may cost a training
        reporter.say(
            f"the plot of the loss cannot be drawn ({error}); {job.log_path} has its numbers"
        )
    return losses[-1]


def _make_validator(job: Pic2WordJob, first_step: int) -> Validator:
    """Make the validator, which has pictures in the first process and none in the others."""
    images = torch.empty(0)
    if job.validation and job.processes.rank == 0:
        pictures = TrainingPictures(refs=job.validation, most_unreadable=job.most_unreadable)
        images = embed_once(job, pictures)
    return Validator(
        images=images,
        backbone=job.backbone,
        prompt=job.recipe.prompt,
        path=job.validation_path,
        every=job.validate_every,
        total=job.steps,
        first_step=first_step,
    )


def make_learner(job: Pic2WordJob) -> Learner[MappingNetwork]:
    """Make network and optimizer as they are before the first step."""
    with seeded(job.recipe.seed):
        mapper = MappingNetwork(
            job.backbone.embedding_width,
            job.backbone.token_width,
            job.recipe.middle_width,
            job.recipe.layers,
            job.recipe.dropout,
        ).to(job.backbone.device)
    return Learner(
        network=mapper,
        optimizer=make_optimizer(mapper, job.recipe, job.backbone.name),
        scaler=make_loss_scaler(job.backbone),
    )


def train_step(
    learner: Learner[MappingNetwork], job: Pic2WordJob, images: Tensor, step: int
) -> float:
    """Update the mapper by one batch's gradient, and give the batch's loss.

    Raises:
        CheckFailed: the loss is not finite.
    """
    rate = warm_up_then_cosine(
        step, job.steps, peak=job.recipe.learning_rate, warmup=job.recipe.warmup_steps
    )
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    learner.optimizer.zero_grad()
    loss = compute_gradient(learner, job, images, step)
    if not loss.isfinite():
        raise CheckFailed(
            f"the loss must be finite, got {loss.item()} at step {step + 1}; --resume continues "
            "from the last saved state; or try a lower --lr"
        )
    learner.step()
    return loss.item()


def save_state(job: Pic2WordJob, learner: Learner[MappingNetwork], losses: Sequence[float]) -> None:
    """Save everything a resume needs, as tensors and JSON, in the first process."""
    if job.processes.rank:
        return
    _write_log(job, losses)
    provenance = {**job.identity(), "step": len(losses)}
    training_state.save_state(job.state_path, learner, provenance)


def load_state(job: Pic2WordJob, learner: Learner[MappingNetwork]) -> int:
    """Put a saved state back, and give how many steps it has done.

    Raises:
        UsageError: it is of another training; the fields that differ are named.
    """
    identity = {part: job.identity()[part] for part in ("recipe", "images", "backbone")}
    provenance, _ = training_state.load_state(job.state_path, learner, identity)
    return int(provenance["step"])


def _write_log(job: Pic2WordJob, losses: Sequence[float]) -> None:
    with write_whole(job.log_path) as path, path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("step", "loss"))
        rows.writerows(enumerate(map(repr, losses), start=1))


def _read_log(job: Pic2WordJob, steps: int) -> list[float]:
    """Read the losses of the steps already done."""
    if steps == 0:
        return []
    try:
        with job.log_path.open(newline="", encoding="utf-8") as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise CorruptData(f"{job.log_path} cannot be read ({error}); start over") from error
    if len(losses) < steps:
        raise CorruptData(f"{job.log_path} must have {steps} steps, got {len(losses)}; start over")
    return losses[:steps]
