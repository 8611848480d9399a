"""Everything that goes through a tower: the pipeline, the store, half precision, training."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TypeVar
from unittest import mock

import numpy as np
import open_clip
import torch
from PIL import Image

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.backbones.base import TorchBackbone
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.backbones.open_clip import from_model
from cirbench.benchmark.embedding.pictures import (
    BatchSize,
    Embedder,
    embed_images,
    fill_tower,
    make_way,
)
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.images.reading import (
    load_encoded,
    make_file_ref,
    prefetch,
    split_into_chunks,
)
from cirbench.benchmark.images.sources import find_training_images
from cirbench.benchmark.records.record import Record
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.training.processes import Processes
from cirbench.methods.pic2word import training
from cirbench.methods.pic2word.batches import TrainingPictures, augment
from cirbench.methods.pic2word.gradient import GradientStep, draw_dropout_masks
from cirbench.methods.pic2word.method import MappingNetwork
from perf.measure import Row, medians

METHODS = ("image-only", "text-only", "image-text", "pic2word")
QUIET = Reporter(quiet=True)
_BATCH = 64
Batch = TypeVar("Batch")
_WARM_STEPS, _STEPS = 3, 20


def start_up_row(arguments: list[str]) -> Row:
    """What `bench` costs before it does anything."""
    run = "import sys; from cirbench.benchmark.cli.main import main; main()"
    command = [sys.executable, "-P", "-c", run, *arguments]
    bench, bare = medians(
        lambda: subprocess.run(command, capture_output=True, check=False),
        lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        rounds=9,
    )
    return Row(
        name=f"bench {' '.join(arguments)}",
        against="python -c pass",
        ratio=bench / bare,
        target="≤ 0.3 s more",
        ok=bench - bare <= 0.3,
        measured=f"{bench - bare:.2f} s more",
    )


def embedded_clip() -> TorchBackbone:
    """The towers that are on every machine."""
    backbone = load_backbone("emoji-clip")
    assert isinstance(backbone, TorchBackbone)
    return backbone


def random_vit_b_32(precision: str = "fp32") -> TorchBackbone:
    """The usual towers without their weights, which are not on every machine."""
    name = "ViT-B-32-quickgelu"
    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained=None)
    tokenizer = open_clip.get_tokenizer(name)
    return from_model(f"{name}, random weights", model, tokenizer, precision=precision)


def jpegs(folder: Path, count: int, size: tuple[int, int] = (224, 224)) -> list[ImageRef]:
    """Photo-like pictures, of so many pixels across and down."""
    rng = np.random.default_rng(0)
    refs = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (14, 14, 3), dtype=np.uint8))
        path = folder / f"{i}.jpg"
        coarse.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
        refs.append(make_file_ref(path, path.name))
    return refs


def pipeline_row(backbone: TorchBackbone, refs: Sequence[ImageRef]) -> Row:
    """Decoding and tower together, against what they can reach where they share the cores."""
    way = make_way(backbone, "clip")

    def decode() -> list[torch.Tensor]:
        jobs = (partial(load_encoded, ref, way, i) for i, ref in enumerate(refs))
        loaded = prefetch(jobs, workers=2, ahead=2 * _BATCH)
        chunks = split_into_chunks((row for row, _ in loaded), _BATCH)
        return [fill_tower(backbone, "clip", chunk) for chunk in chunks]

    pixels = torch.cat(decode())
    decoding, tower, together = medians(
        decode, lambda: forward(backbone, pixels), lambda: embedded(backbone, refs), rounds=5
    )
    alone = decoding + tower
    return Row(
        name=f"embedding pipeline, {backbone.name}, {len(refs)} JPEGs of 224 px",
        against="1 / (1 / decode + 1 / forward), cores shared",
        ratio=alone / together,
        target="≥ 0.9",
        ok=alone / together >= 0.9,
        measured=f"{len(refs) / together:,.0f} images/s",
    )


def embedded(backbone: TorchBackbone, refs: Sequence[ImageRef]) -> None:
    """The harness's own way from files to embeddings, without a store."""
    with QUIET.stage("perf", len(refs)) as stage:
        embedder = Embedder(
            backbone=backbone,
            preprocess="clip",
            size=BatchSize(value=_BATCH),
            workers=2,
            stage=stage,
        )
        embed_images(embedder, refs)


def forward(backbone: TorchBackbone, pixels: torch.Tensor) -> None:
    """The bare image tower."""
    with torch.inference_mode():
        for start in range(0, len(pixels), _BATCH):
            backbone.encode_images(pixels[start : start + _BATCH])


def emoji_records(folder: Path, precision: str = "fp32") -> list[Record]:
    """The four methods on emoji, with a store below the folder."""
    request = Request(methods=METHODS, task="emoji", precision=precision, output=folder / "results")
    with store_in(folder / "cache"):
        return list(run(plan(request), QUIET))


def store_in(folder: Path) -> AbstractContextManager[object]:
    """Keep what is computed in a folder of its own."""
    return mock.patch.dict(os.environ, CIRBENCH_CACHE=str(folder))


def store_rows(folder: Path) -> Iterator[Row]:
    """Four methods over emoji, then again with what is stored."""
    cold, warm = (emoji_records(folder)[0] for _ in range(2))
    passes = cold.counts.image_passes / cold.counts.pictures
    ratio = warm.run.seconds["embed"] / cold.run.seconds["embed"]
    yield Row(
        name="image passes of four methods on emoji",
        against="distinct images",
        ratio=passes,
        target="1.00",
        ok=passes == 1,
        measured=f"{cold.counts.image_passes:,} passes",
    )
    yield Row(
        name="embedding with a stored backbone",
        against="the first run",
        ratio=ratio,
        target="≤ 0.1, 0 image passes",
        ok=ratio <= 0.1 and warm.counts.image_passes == 0,
        measured=f"{warm.run.seconds['embed']:.2f} s",
    )


def bf16_row() -> Row | None:
    """Weights in bfloat16 against float32; None where the CPU has no instructions for them."""
    if "bf16" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        return None
    pixels = torch.randn(_BATCH, 3, 224, 224)
    full, half = medians(
        *(partial(forward, random_vit_b_32(precision), pixels) for precision in ("fp32", "bf16")),
        rounds=5,
    )
    return Row(
        name=f"bf16 image tower, ViT-B-32, batch {_BATCH}",
        against="float32 tower",
        ratio=full / half,
        target="≥ 1.5",
        ok=full / half >= 1.5,
        measured=f"{_BATCH / half:,.0f} images/s; one linear layer alone: {_linear_ratio():.2f}",
    )


def _linear_ratio() -> float:
    """The same of a tower's largest layer: what the CPU and torch's library can reach."""
    rows = torch.randn(50 * _BATCH, 768)
    full, half = torch.randn(768, 3072), torch.randn(768, 3072).bfloat16()
    rounded = rows.bfloat16()
    whole, halved = medians(lambda: rows @ full, lambda: rounded @ half, rounds=15)
    return whole / halved


def bf16_changes(folder: Path) -> list[tuple[str, str, float, float]]:
    """Method, metric, percent in float32, percent in bfloat16: the emoji task's averages."""
    full, half = (emoji_records(folder / p, p) for p in ("fp32", "bf16"))
    return [
        (
            one.cell.method,
            metric,
            value.value,
            other.metrics["average"][metric].value,
        )
        for one, other in zip(full, half, strict=True)
        for metric, value in one.metrics["average"].items()
    ]


def training_row(backbone: TorchBackbone) -> Row:
    """A step of Pic2Word against its bare parts: images forward, texts forward and backward."""
    mapper = MappingNetwork(backbone.embedding_width, backbone.token_width)
    size = backbone.image_spec.size
    pixels = torch.randn(_BATCH, 3, size, size)
    prompts = ["a photo of *"] * _BATCH

    def ours() -> None:
        with torch.no_grad():
            images = backbone.encode_images(pixels)
        GradientStep(
            network=mapper,
            backbone=backbone,
            prompt=prompts[0],
            images=images,
            masks=draw_dropout_masks(mapper, _BATCH, 0),
            processes=Processes(),
        ).backward()

    def bare() -> None:
        with torch.no_grad():
            backbone.encode_images(pixels)
        words = torch.randn(_BATCH, backbone.token_width, requires_grad=True)
        backbone.encode_prompts(prompts, words).sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch

    taken, least = medians(ours, bare, rounds=7)
    return Row(
        name=f"a training step of Pic2Word, {backbone.name}, batch {_BATCH}",
        against="bare image forward, text forward and backward",
        ratio=taken / least,
        target="≤ 1.1",
        ok=taken / least <= 1.1,
        measured=f"{taken:.2f} s",
    )


def loading_row(backbone: TorchBackbone, folder: Path) -> Row:
    """How long a training step waits for its pictures, the embedded ones, decoded and cropped."""
    refs, label = find_training_images("emoji")
    job = training.Pic2WordJob(
        recipe=training.Pic2WordRecipe(epochs=1, batch_size=_BATCH),
        backbone=backbone,
        images=refs,
        trained_on=label,
        output=folder / "mapper.safetensors",
    )
    learner = training.make_learner(job)
    waited: list[float] = []
    with mock.patch.object(training, "augment", _timed(augment, waited)):
        embeddings = training.embed_steps(job, TrainingPictures(refs=refs, most_unreadable=0), 0)
        for step in range(_WARM_STEPS + _STEPS):
            if step == _WARM_STEPS:
                waited.clear()
                started = time.perf_counter()
            training.train_step(learner, job, next(embeddings), step)
    share = sum(waited) / (time.perf_counter() - started)
    return Row(
        name=f"waiting for pictures in training, {backbone.name}, batch {_BATCH}",
        against="the step",
        ratio=share,
        target="≤ 0.05",
        ok=share <= 0.05,
        measured=f"{1000 * sum(waited) / _STEPS:.1f} ms a step",
    )


def _timed(
    made: Callable[..., Iterator[Batch]], waited: list[float]
) -> Callable[..., Iterator[Batch]]:
    """The same iterator, with the seconds of each of its steps noted."""

    def timed(*arguments: object, **named: object) -> Iterator[Batch]:
        batches = made(*arguments, **named)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            waited.append(time.perf_counter() - started)
            yield batch

    return timed
