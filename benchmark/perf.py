"""Speed and memory as ratios within one run: `make perf`. Never a test: it prints, people judge."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from tabulate import tabulate

from cirbench.benchmark.backbones import load_backbone
from cirbench.benchmark.backbones.base import TorchBackbone
from cirbench.benchmark.backbones.open_clip import from_model
from cirbench.benchmark.bootstrap import Design, resampled_means
from cirbench.benchmark.embed import BatchSize, Embedder, embed_images
from cirbench.benchmark.files import written_whole
from cirbench.benchmark.images import file_ref, load_picture, prefetched
from cirbench.benchmark.interfaces import ImageRef, Query, TaskData
from cirbench.benchmark.plan import Request, plan
from cirbench.benchmark.preprocess import preprocess
from cirbench.benchmark.progress import Reporter
from cirbench.benchmark.protocol import EvaluationProtocol
from cirbench.benchmark.provenance import environment
from cirbench.benchmark.ranking import dot_product, rank
from cirbench.benchmark.run import run
from cirbench.benchmark.scoring import averages_of, depth, score, summarise
from cirbench.benchmark.spans import rank_queries
from cirbench.methods.pic2word import MappingNetwork
from cirbench.methods.pic2word_gradient import Processes, Step, dropout_masks


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; `ok` says whether the ratio keeps the target."""

    name: str
    against: str
    ratio: float
    target: str
    ok: bool
    measured: str


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Median wall time."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def unit_vectors(rows: int, width: int, seed: int) -> torch.Tensor:
    """(rows, width) float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1)


def ranking(queries: int, gallery: int, width: int, depth: int) -> tuple[float, float, float]:
    """Seconds of `rank`, of the bare matmul and top-k of the same size, and peak memory in MB."""
    q, g = unit_vectors(queries, width, 0), unit_vectors(gallery, width, 1)
    positives = [(row % gallery,) for row in range(queries)]

    def bare() -> None:
        for start in range(0, queries, 512):
            (q[start : start + 512] @ g.T).topk(depth, dim=1)

    baseline = seconds(bare, 1)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_megabytes()
    ours = seconds(lambda: rank(dot_product(q, g), positives, gallery, depth=depth), 1)
    return ours, baseline, peak_megabytes() - before


def peak_megabytes() -> float:
    """The most resident memory since the last reset (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def ranking_row(queries: int, gallery: int, width: int, depth: int) -> Row:
    """How ranking compares with the least that any ranking does."""
    ours, bare, megabytes = ranking(queries, gallery, width, depth)
    return Row(
        name=f"ranking {queries:,} × {gallery:,} × {width}, k = {depth}",
        against="bare matmul + top-k", ratio=ours / bare, target="≤ 1.5", ok=ours / bare <= 1.5,
        measured=f"{ours:.1f} s, {megabytes:,.0f} MB above the inputs",
    )  # fmt: skip


def scoring_row(name: str, queries: int, gallery: int, metrics: tuple[str, ...]) -> Row:
    """Vectors in, metrics with intervals out, at a task's real size, on made features."""
    refs = tuple(ImageRef(id=str(i), read=bytes) for i in range(gallery))
    data = TaskData(
        gallery=refs, annotations={},
        queries=tuple(
            Query(id=str(i), reference=refs[i % gallery], positives=(i % gallery,))
            for i in range(queries)
        ),
    )  # fmt: skip
    protocol = EvaluationProtocol(
        name="perf", version=1, gallery="all", reference_removed=False, preprocess="clip",
        templates={}, metrics=metrics, headline=metrics[0],
    )  # fmt: skip
    q, g = unit_vectors(queries, 768, 0), unit_vectors(gallery, 768, 1)
    k = depth(protocol)

    def bare() -> None:
        for start in range(0, queries, 512):
            (q[start : start + 512] @ g.T).topk(k, dim=1)

    def ours() -> None:
        found = score(data, rank_queries(data, q, g, k), protocol)
        summarise(found, data.groups, averages_of(data.groups, protocol))

    least = seconds(bare, 1)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_megabytes()
    taken = seconds(ours, 1)
    megabytes = peak_megabytes() - before
    return Row(
        name=f"{name}: vectors to metrics, {queries:,} × {gallery:,}",
        against="bare matmul + top-k", ratio=taken / least, target="≤ 2, < 1,000 MB",
        ok=taken / least <= 2 and megabytes < 1000,
        measured=f"{taken:.1f} s, {megabytes:,.0f} MB above the inputs",
    )  # fmt: skip


def bootstrap_row() -> Row:
    """Intervals for 10,000 queries × 6 metrics × 2,000 resamples."""
    values = np.random.default_rng(0).random((10_000, 6))
    design = Design(reference=np.arange(10_000), group=np.zeros(10_000, dtype=np.int64))
    taken = seconds(lambda: resampled_means(values, design), 1)
    return Row(
        name="bootstrap, 10,000 queries × 6 metrics × 2,000 resamples", against="2 s",
        ratio=taken / 2, target="≤ 1", ok=taken < 2, measured=f"{taken:.2f} s",
    )  # fmt: skip


def start_up_row(arguments: list[str]) -> Row:
    """What `bench` costs before it does anything."""
    run = "import sys; from cirbench.benchmark.cli import main; main()"
    command = [sys.executable, "-P", "-c", run, *arguments]
    bench = seconds(lambda: subprocess.run(command, capture_output=True, check=False), 5)
    bare = seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 5)
    return Row(
        name=f"bench {' '.join(arguments)}", against="python -c pass", ratio=bench / bare,
        target="≤ 0.3 s more", ok=bench - bare <= 0.3, measured=f"{bench - bare:.2f} s more",
    )  # fmt: skip


def jpegs(folder: Path, count: int) -> list[ImageRef]:
    """Photo-like pictures of 224 × 224."""
    rng = np.random.default_rng(0)
    refs = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (14, 14, 3), dtype=np.uint8))
        path = folder / f"{i}.jpg"
        coarse.resize((224, 224), Image.Resampling.BICUBIC).save(path, quality=90)
        refs.append(file_ref(path, path.name))
    return refs


def pipeline_row(backbone: TorchBackbone, refs: list[ImageRef]) -> Row:
    """Decoding and tower together, against what they can reach where they share the cores."""
    transform = preprocess("clip", backbone.image_spec)
    with Reporter(quiet=True).stage("perf", len(refs)) as stage:
        embedder = Embedder(
            backbone=backbone, preprocess="clip", size=BatchSize(value=64), workers=2,
            stage=stage,
        )  # fmt: skip

        def decode() -> list[torch.Tensor]:
            jobs = (partial(load_picture, ref, transform, i) for i, ref in enumerate(refs))
            return [pixels for pixels, _ in prefetched(jobs, workers=2, ahead=128)]

        pixels = torch.stack(decode())

        def forward() -> None:
            with torch.inference_mode():
                for start in range(0, len(pixels), 64):
                    backbone.encode_images(pixels[start : start + 64])

        alone = seconds(decode) + seconds(forward)
        together = seconds(lambda: embed_images(embedder, refs))
    return Row(
        name=f"embedding pipeline, {backbone.name}, {len(refs)} JPEGs of 224 px",
        against="1 / (1 / decode + 1 / forward), cores shared", ratio=alone / together,
        target="≥ 0.9", ok=alone / together >= 0.9,
        measured=f"{len(refs) / together:,.0f} images/s",
    )  # fmt: skip


def store_rows(folder: Path) -> list[Row]:
    """Four methods over emoji, then again with what is stored."""
    methods = ("image-only", "text-only", "image-text", "pic2word")
    os.environ["CIRBENCH_CACHE"] = str(folder / "cache")
    request = Request(methods=methods, task="emoji", output=folder / "results")
    quiet = Reporter(quiet=True)
    cold, warm = (next(run(plan(request), quiet)).data for _ in range(2))
    passes = cold["counts"]["image_passes"] / cold["counts"]["pictures"]
    ratio = warm["run"]["seconds"]["embed"] / cold["run"]["seconds"]["embed"]
    return [
        Row(
            name="image passes of four methods on emoji", against="distinct images", ratio=passes,
            target="1.00", ok=passes == 1, measured=f"{cold['counts']['image_passes']:,} passes",
        ),
        Row(
            name="embedding with a stored backbone", against="the first run", ratio=ratio,
            target="≤ 0.1, 0 image passes",
            ok=ratio <= 0.1 and warm["counts"]["image_passes"] == 0,
            measured=f"{warm['run']['seconds']['embed']:.2f} s, "
            f"{warm['counts']['image_passes']} passes",
        ),
    ]  # fmt: skip


def training_row(backbone: TorchBackbone, rows: int = 64) -> Row:
    """A step of Pic2Word against its bare parts: images forward, texts forward and backward."""
    mapper = MappingNetwork(backbone.embedding_width, backbone.token_width)
    size = backbone.image_spec.size
    pixels = torch.randn(rows, 3, size, size)
    prompts = ["a photo of *"] * rows

    def ours() -> None:
        with torch.no_grad():
            images = backbone.encode_images(pixels)
        Step(
            network=mapper, backbone=backbone, prompt=prompts[0], images=images,
            masks=dropout_masks(mapper, rows, 0), processes=Processes(),
        ).backward()  # fmt: skip

    def bare() -> None:
        with torch.no_grad():
            backbone.encode_images(pixels)
        words = torch.randn(rows, backbone.token_width, requires_grad=True)
        backbone.encode_prompts(prompts, words).sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch

    ratio = seconds(ours, 5) / seconds(bare, 5)
    return Row(
        name=f"a training step of Pic2Word, {backbone.name}, batch {rows}",
        against="bare image forward, text forward and backward", ratio=ratio, target="≤ 1.1",
        ok=ratio <= 1.1, measured=f"{seconds(ours):.2f} s",
    )  # fmt: skip


def measured() -> Iterator[Row]:
    """Every row, as it is measured."""
    yield start_up_row(["--help"])
    yield start_up_row(["ls"])
    emoji = load_backbone("emoji-clip")
    assert isinstance(emoji, TorchBackbone)  # the embedded one is
    with tempfile.TemporaryDirectory() as name:
        refs = jpegs(Path(name), 512)
        yield pipeline_row(emoji, refs)
        yield pipeline_row(random_vit_b_32(), refs[:128])
        yield from store_rows(Path(name))
    yield training_row(emoji)
    yield bootstrap_row()
    yield ranking_row(10_000, 16_983, 768, 200)
    yield ranking_row(10_000, 100_000, 768, 200)
    yield scoring_row("fashion-iq shirt", 2_038, 6_346, ("R@10", "R@50"))
    yield scoring_row("imagenet-r", 40_000, 16_983, ("R@10", "R@50", "R@200"))


def random_vit_b_32() -> TorchBackbone:
    """The usual towers without their weights, which are not on every machine."""
    name = "ViT-B-32-quickgelu"
    model = open_clip.create_model(name, pretrained=None)
    return from_model(f"{name}, random weights", model, open_clip.get_tokenizer(name))


NOT_MEASURED = """Not measured: GPUs (none here); bf16 towers; a gallery of a million from a mapped
file, which ranking takes (a test has a small one)."""


def markdown(rows: Sequence[Row]) -> str:
    """The table, and what it leaves out."""
    cells = [
        [r.name, r.against, f"{r.ratio:.2f}", r.target, "ok" if r.ok else "MISSED", r.measured]
        for r in rows
    ]
    headers = ["what", "against", "ratio", "target", "", "measured"]
    cpu = environment()
    machine = f"{cpu['cpu']}, {cpu['cpu_count']} cores, torch {cpu['packages']['torch']}"
    return (
        f"# Speed and memory\n\nWritten by `make perf` on {machine}. Each ratio is of two times "
        f"in one run.\n\n{tabulate(cells, headers, tablefmt='pipe', disable_numparse=True)}\n\n"
        f"{NOT_MEASURED}\n"
    )


def main() -> None:
    """Measures, prints, and writes perf.md and perf.json into the folder given."""
    rows = []
    for row in measured():
        rows.append(row)
        print(f"{row.name}: {row.ratio:.2f} ({row.target}), {row.measured}", flush=True)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    fields = ("name", "ratio", "target", "ok")
    plain = [{name: getattr(row, name) for name in fields} for row in rows]
    for name, text in (("perf.md", markdown(rows)), ("perf.json", json.dumps(plain, indent=2))):
        with written_whole(folder / name) as temporary:
            temporary.write_text(text)
    print(f"{sum(not row.ok for row in rows)} of {len(rows)} targets missed; {folder}/perf.md")


if __name__ == "__main__":
    main()
