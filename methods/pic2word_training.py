"""Training Pic2Word's mapping network on unlabelled pictures: `bench train pic2word`.

The recipe is the README's of the released code (google-research/composed_image_retrieval): AdamW
with no decay on biases, warm-up then cosine per step, RandomResizedCrop with scale 0.9 to 1.

Every random number is a function of the seed and of the step, epoch or picture it is for. So a
training that was interrupted and resumed ends, on the CPU, with the same bits as an unbroken one.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from cirbench.benchmark.checkpoints import read_checkpoint, write_checkpoint, written_whole
from cirbench.benchmark.errors import CheckFailed, CorruptData, UsageError
from cirbench.benchmark.images import chunks, load_picture, prefetched
from cirbench.benchmark.interfaces import Backbone, ImageRef
from cirbench.benchmark.preprocess import ImageSpec, to_tensor
from cirbench.benchmark.progress import Reporter
from cirbench.benchmark.provenance import code_state, package_versions
from cirbench.methods.pic2word import DROPOUT, MappingNetwork, contrastive_loss

PROMPT = "a photo of *"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the mapping network is trained; the defaults are the released README's."""

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
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training: what on, with what, where to."""

    recipe: Recipe
    backbone: Backbone
    images: Sequence[ImageRef]
    trained_on: str
    output: Path
    workers: int = 2
    checkpoint_every: int = 500

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
    def log_path(self) -> Path:
        return self.output.with_suffix(".log.csv")

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to be resumed, and what its weights' header says."""
        digest = hashlib.sha256("\n".join(ref.id for ref in self.images).encode())
        identity = {
            "recipe": asdict(self.recipe),
            "trained_on": self.trained_on,
            "images": {"count": len(self.images), "ids_sha256": digest.hexdigest()},
            "backbone": {"name": self.backbone.name, "weights": self.backbone.weights_sha256},
        }
        as_stored: dict[str, Any] = json.loads(json.dumps(identity))
        return as_stored


def adamw(mapper: MappingNetwork, recipe: Recipe, backbone_name: str) -> torch.optim.AdamW:
    """No decay on biases; betas and eps as the released code sets them by the kind of tower."""
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


def learning_rate(step: int, total: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine down to zero at `total`; `step` counts from 0."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, total - recipe.warmup_steps)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def random_crop(
    image: Image.Image, spec: ImageSpec, scale: tuple[float, float], rng: np.random.Generator
) -> Tensor:
    """RandomResizedCrop with torchvision's ratios (3/4 to 4/3), bicubic, converted to RGB after."""
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    side = [spec.size, spec.size]
    cropped = tv.resized_crop(image, top, left, h, w, side, InterpolationMode.BICUBIC)
    return to_tensor(cropped, spec)


def batches(job: Job, first_step: int) -> Iterator[Tensor]:
    """(B, 3, S, S) augmented pictures for every step from `first_step` on."""

    def jobs() -> Iterator[Callable[[], tuple[Tensor, str]]]:
        for step in range(first_step, job.steps):
            epoch, place = divmod(step, job.steps_per_epoch)
            order = np.random.default_rng((job.recipe.seed, epoch)).permutation(len(job.images))
            start = place * job.recipe.batch_size
            for row in order[start : start + job.recipe.batch_size]:
                rng = np.random.default_rng((job.recipe.seed, epoch, int(row)))
                transform = partial(
                    random_crop, spec=job.backbone.image_spec, scale=job.recipe.crop_scale, rng=rng
                )
                yield partial(load_picture, job.images[row], transform, int(row))

    loaded = prefetched(jobs(), workers=job.workers, ahead=2 * job.recipe.batch_size)
    for chunk in chunks(loaded, job.recipe.batch_size):
        yield torch.stack([pixels for pixels, _ in chunk])


def step_loss(mapper: MappingNetwork, job: Job, pixels: Tensor, step: int) -> Tensor:
    """The loss of one batch; gradients reach the mapper alone."""
    backbone = job.backbone
    with torch.no_grad():
        images = backbone.encode_images(pixels)
    torch.manual_seed(job.recipe.seed * 1_000_003 + step)
    words = mapper(images)
    texts = backbone.encode_prompts([job.recipe.prompt] * len(images), words)
    return contrastive_loss(images, texts, backbone.logit_scale)


def train(job: Job, reporter: Reporter, *, resume: bool = False) -> float:
    """Trains, writes `job.output` and the loss log beside it, and gives the last loss.

    Raises:
        UsageError: fewer pictures than a batch, or a resume with another recipe.
        CheckFailed: the loss is not finite; the last good state stays on disk.
    """
    if job.steps_per_epoch == 0:
        raise UsageError(
            f"{len(job.images)} pictures make no batch of {job.recipe.batch_size}; "
            f"lower --batch-size"
        )
    mapper = _new_mapper(job)
    optimizer = adamw(mapper, job.recipe, job.backbone.name)
    first = load_state(job, mapper, optimizer) if resume and job.state_path.exists() else 0
    reporter.say(f"{job.steps} steps, from step {first + 1}, on {len(job.images)} pictures")
    losses = _read_log(job, first)
    mapper.train()
    try:
        with reporter.stage("training", job.steps) as stage:
            stage.advance(first)
            for step, pixels in enumerate(batches(job, first), start=first):
                losses.append(_one_step(mapper, optimizer, job, pixels, step))
                stage.advance(1)
                if (step + 1) % job.checkpoint_every == 0 and step + 1 < job.steps:
                    save_state(job, mapper, optimizer, losses)
    except KeyboardInterrupt:
        save_state(job, mapper, optimizer, losses)
        reporter.say(
            f"interrupted after step {len(losses)}; the same command with --resume goes on"
        )
        raise
    _write_log(job, losses)
    header = {**job.identity(), "kind": "pic2word", "final_loss": losses[-1],
              "code": code_state(), "packages": package_versions()}  # fmt: skip
    write_checkpoint(job.output, mapper.state_dict(), header)
    job.state_path.unlink(missing_ok=True)
    return losses[-1]


def _new_mapper(job: Job) -> MappingNetwork:
    torch.manual_seed(job.recipe.seed)
    return MappingNetwork(
        job.backbone.embedding_width, job.backbone.token_width, job.recipe.middle_width,
        job.recipe.layers, job.recipe.dropout,
    ).to(job.backbone.device)  # fmt: skip


def _one_step(
    mapper: MappingNetwork, optimizer: torch.optim.AdamW, job: Job, pixels: Tensor, step: int
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, job.steps, job.recipe)
    loss = step_loss(mapper, job, pixels, step)
    if not loss.isfinite():
        raise CheckFailed(
            f"the loss is {loss.item()} at step {step + 1}; the last state that was saved is kept, "
            f"--resume goes on from there; try a lower --lr"
        )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    optimizer.step()
    return loss.item()


def save_state(
    job: Job, mapper: MappingNetwork, optimizer: torch.optim.AdamW, losses: Sequence[float]
) -> None:
    """Everything a resume needs, as tensors and JSON."""
    tensors = {f"mapper.{name}": tensor for name, tensor in mapper.state_dict().items()}
    for name, parameter in mapper.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    _write_log(job, losses)
    write_checkpoint(job.state_path, tensors, {**job.identity(), "step": len(losses)})


def load_state(job: Job, mapper: MappingNetwork, optimizer: torch.optim.AdamW) -> int:
    """Puts a saved state back, and gives how many steps it has done.

    Raises:
        UsageError: it is of another training; the fields that differ are named.
    """
    saved = read_checkpoint(job.state_path)
    now = job.identity()
    differing = [
        f"{part}.{key}: {saved.provenance.get(part, {}).get(key)} then, {value} now"
        for part in ("recipe", "images", "backbone")
        for key, value in now[part].items()
        if saved.provenance.get(part, {}).get(key) != value
    ]
    if differing:
        raise UsageError(
            f"{job.state_path} is of another training ({'; '.join(differing)}); give the same "
            f"options, or start anew without --resume"
        )
    weights = {name: saved.content[f"mapper.{name}"] for name in mapper.state_dict()}
    mapper.load_state_dict(weights)
    for name, parameter in mapper.named_parameters():
        prefix = f"optimizer.{name}."
        optimizer.state[parameter] = {
            key.removeprefix(prefix): value.to(parameter.device if value.dim() else "cpu")
            for key, value in saved.content.items()
            if key.startswith(prefix)
        }
    return int(saved.provenance["step"])


def _write_log(job: Job, losses: Sequence[float]) -> None:
    with written_whole(job.log_path) as path, path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("step", "loss"))
        rows.writerows(enumerate(map(repr, losses), start=1))


def _read_log(job: Job, steps: int) -> list[float]:
    """The losses of the steps already done."""
    if steps == 0:
        return []
    try:
        with job.log_path.open(newline="") as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise CorruptData(f"{job.log_path} can't be read ({error}); start anew") from error
    if len(losses) < steps:
        raise CorruptData(f"{job.log_path} has {len(losses)} of {steps} steps; start anew")
    return losses[:steps]
