"""Checks cirbench on a GPU against the CPU and measures it: `make gpu`, in six minutes at most.

    python -P -m perf.gpu FOLDER [--device cuda] [--only PART ...] [--small]

Writes gpu.json and gpu.md into the folder anew after each part, so that a run that is cut off
leaves what it found. A part that fails says why, and the next one begins.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from tabulate import tabulate
from torch import Tensor

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.backbones.base import TorchBackbone
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.backbones.open_clip import from_model
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, ImageFeatures, embed_images
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.images.preprocess import make_transform
from cirbench.benchmark.images.reading import load_picture, prefetch
from cirbench.benchmark.ranking.rank import PART_ROWS, Ranking, rank_vectors
from cirbench.benchmark.runtime.files import write_whole
from cirbench.benchmark.runtime.provenance import describe_environment, read_code_state
from cirbench.benchmark.training.selection import find_supervision
from cirbench.datasets.emoji.pictures import read_pictures
from cirbench.methods.combiner import training as combiner
from cirbench.methods.pic2word import training as pic2word
from perf.measure import seconds, unit_vectors
from perf.ranks import WIDTH, bare, wanted
from perf.towers import QUIET, jpegs, store_in

SECONDS = 350
"""Of the whole run; what is not begun by then is left out."""
_METHODS = ("image-only", "text-only", "image-text", "pic2word", "combiner")
_SHOWN = 50
_STEPS, _BATCH = 20, 64


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was checked or measured; `ok` is None where nothing is asked of it."""

    what: str
    found: str
    target: str = ""
    ok: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured; `limit` is of the queries of a group."""

    towers: tuple[str, ...] = ("ViT-B-32", "ViT-L-14", "RN50x4")
    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16", "amp", "amp_bf16")
    limit: int | None = None
    images: int = 2048
    batch: int = 128
    queries: int = 10_000
    gallery: int = 1_000_000


SMALL = Sizes(
    towers=("emoji-clip",),
    precisions=("fp32", "amp_bf16"),
    limit=20,
    images=16,
    batch=8,
    queries=50,
    gallery=PART_ROWS + 500,
)
"""To see that the script works."""


@dataclass(frozen=True)
class Bench:
    """What the parts work with.

    Attributes:
        folder: for what they write in between.
    """

    device: torch.device
    sizes: Sizes
    folder: Path

    @cached_property
    def refs(self) -> Sequence[ImageRef]:
        limit = self.sizes.limit and _BATCH * _STEPS
        return [picture.ref for picture in read_pictures()][:limit]

    def load(self, device: str = "", precision: str = "fp32") -> TorchBackbone:
        """Load the embedded backbone, on the GPU unless told otherwise."""
        found = load_backbone("emoji-clip", device=device or str(self.device), precision=precision)
        assert isinstance(found, TorchBackbone)
        return found

    def time(self, work: Callable[[], object], rounds: int = 3) -> float:
        """Give the shortest of some times, after one that is not counted."""

        def whole() -> None:
            work()
            self.wait()

        whole()
        return min(seconds(whole) for _ in range(rounds))

    def wait(self) -> None:
        """Wait until the GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def check_features(bench: Bench) -> Iterator[Finding]:
    """Features of the embedded task on both devices."""
    on_cpu, on_gpu = (_embed(bench.load(device), bench.refs) for device in ("cpu", ""))
    apart = _unit(on_cpu.values) - _unit(on_gpu.values)
    yield _hold("features in float32, greatest difference of unit vectors", apart, 1e-4)


def check_ranking(bench: Bench) -> Iterator[Finding]:
    """The same vectors ranked on both devices, with ties, removed rows and members."""
    queries, gallery = unit_vectors(400, WIDTH, 0), unit_vectors(3000, WIDTH, 1)
    gallery[::7] = gallery[3]  # equal vectors, which gallery order decides
    rng = np.random.default_rng(0)
    asked = replace(
        wanted(400, 3000, _SHOWN),
        removed=[int(row) for row in rng.integers(3000, size=400)],
        members=[tuple(map(int, rng.choice(3000, 6, replace=False))) for _ in range(400)],
    )
    on_cpu = rank_vectors(queries, gallery, asked)
    on_gpu = rank_vectors(queries.to(bench.device), gallery.to(bench.device), asked)
    for name in vars(Ranking(**vars(on_cpu))):
        same = np.array_equal(getattr(on_cpu, name), getattr(on_gpu, name))
        yield Finding(
            what=f"ranking with ties, removed rows and members: {name}",
            found="same" if same else "differs",
            target="same",
            ok=same,
        )


def check_evaluation(bench: Bench) -> Iterator[Finding]:
    """The embedded task from pictures to metrics, in each precision."""
    on_cpu = _evaluate(bench, "cpu", "fp32")
    for precision in bench.sizes.precisions:
        found = _evaluate(bench, str(bench.device), precision)
        apart = {name: _compare(on_cpu[name], found[name]) for name in _METHODS}
        points = max(points for _, points in apart.values())
        yield Finding(
            what=f"{precision}: metrics, greatest difference from the CPU's float32",
            found=f"{points:.3f} points",
            target="≤ 0.05 points",
            ok=points <= 0.05,
        )
        moved = sum(moved for moved, _ in apart.values())
        yield Finding(
            what=f"{precision}: queries with other first {_SHOWN} or first rank, beyond 1e-5",
            found=str(moved),
            target="0" if precision == "fp32" else "",
            ok=moved == 0 if precision == "fp32" else None,
        )


def check_pic2word(bench: Bench) -> Iterator[Finding]:
    """Steps of Pic2Word on both devices, cut and resumed, and in half precision."""
    whole = _train_pic2word(bench, "cpu", "fp32", "cpu")
    yield _hold_losses(whole, _train_pic2word(bench, "", "fp32", "gpu"), "Pic2Word", 1e-3)
    resumed = _train_pic2word(bench, "", "fp32", "resumed", cut=_STEPS // 2)
    yield _hold_losses(whole, resumed, "Pic2Word, cut and resumed", 1e-3)
    for precision in [p for p in bench.sizes.precisions if p.startswith("amp")]:
        half = _train_pic2word(bench, "", precision, precision)
        yield _hold_losses(whole, half, f"Pic2Word, {precision}", 5e-2)


def check_combiner(bench: Bench) -> Iterator[Finding]:
    """Steps of the Combiner on both devices; without dropout, which each draws for itself."""
    with mock.patch("cirbench.methods.combiner.method.DROPOUT", 0.0):
        on_cpu, on_gpu = (_train_combiner(bench, device) for device in ("cpu", ""))
    yield _hold_losses(on_cpu, on_gpu, "Combiner", 1e-3)


def check_memory(bench: Bench) -> Iterator[Finding]:
    """Embedding where memory runs out: the batch is halved, and the features stay."""
    if bench.device.type != "cuda":
        yield Finding(what="a batch that is too large is halved", found="not tried: no GPU")
        return
    backbone, size = bench.load(), BatchSize(value=4096)
    plain = _embed(backbone, bench.refs)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(bench.device)
    ballast = torch.empty(free - 2**28, dtype=torch.uint8, device=bench.device)
    found = _embed(backbone, bench.refs, size)
    del ballast
    yield Finding(
        what="a batch of 4,096 with 256 MB free is halved",
        found=f"to {size.value}",
        target="< 4096",
        ok=size.value < 4096,
    )
    yield _hold("features of halved batches", _unit(plain.values) - _unit(found.values), 1e-4)


def measure_tower(name: str, bench: Bench) -> Iterator[Finding]:
    """Images a second from files to features, and of each stage alone."""
    backbone = _random_towers(name, bench, "fp32")
    refs = jpegs(bench.folder / name, bench.sizes.images)
    transform, workers = make_transform("clip", backbone.image_spec), os.cpu_count() or 1

    def decode() -> list[Tensor]:
        jobs = (partial(load_picture, ref, transform, row) for row, ref in enumerate(refs))
        ahead = 2 * bench.sizes.batch
        return [pixels for pixels, _ in prefetch(jobs, workers=workers, ahead=ahead)]

    pixels = torch.stack(decode()[: bench.sizes.batch])
    held = pixels.pin_memory() if bench.device.type == "cuda" else pixels
    near = held.to(bench.device)
    stages = {
        "decode": len(refs) / bench.time(decode, rounds=1),
        "decode in processes": _decode_in_processes(refs, backbone, workers),
        "copy": len(pixels) / bench.time(lambda: held.to(bench.device, non_blocking=True)),
        "forward": len(pixels) / bench.time(lambda: _forward(backbone, near)),
    }
    size = BatchSize(value=bench.sizes.batch)
    whole = len(refs) / bench.time(lambda: _embed(backbone, refs, size, workers), rounds=1)
    for stage, speed in stages.items():
        yield Finding(what=f"{name}: {stage} alone", found=f"{speed:,.0f} images/s")
    share = whole / min(stages["decode"], stages["forward"])
    yield Finding(
        what=f"{name}: files to features, share of the slower of decode and forward",
        found=f"{share:.2f}, {whole:,.0f} images/s with {workers} threads",
        target="≥ 0.9",
        ok=share >= 0.9,
    )
    half = len(pixels) / bench.time(partial(_forward, _random_towers(name, bench, "bf16"), near))
    yield Finding(
        what=f"{name}: bfloat16 over float32",
        found=f"{half / stages['forward']:.2f}",
        target="≥ 1.5",
        ok=half >= 1.5 * stages["forward"],
    )
    yield from _measure_layouts(name, backbone, near, bench)


def _decode_in_processes(refs: Sequence[ImageRef], backbone: TorchBackbone, workers: int) -> float:
    """Images a second where no thread waits for another's hold on the interpreter."""
    parts = [refs[start::workers] for start in range(workers)]
    decode = partial(_decode_some, spec=backbone.image_spec)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(decode, [part[:1] for part in parts]))  # the processes start
        taken = seconds(lambda: list(pool.map(decode, parts)))
    return len(refs) / taken


def _decode_some(refs: Sequence[ImageRef], spec: ImageSpec) -> NDArray[np.float32]:
    transform = make_transform("clip", spec)
    pixels = [load_picture(ref, transform, row)[0].numpy() for row, ref in enumerate(refs)]
    return np.stack(pixels)


def _measure_layouts(
    name: str, backbone: TorchBackbone, pixels: Tensor, bench: Bench
) -> Iterator[Finding]:
    """What the bare image tower gains by the layout it has, and by torch.compile."""

    def tower(layout: torch.memory_format) -> float:
        backbone.model.to(memory_format=layout)
        shown = pixels.contiguous(memory_format=layout)
        return bench.time(lambda: backbone.image_tower(shown))

    with torch.inference_mode():
        plain, last = tower(torch.contiguous_format), tower(torch.channels_last)
        yield Finding(what=f"{name}: channels_last over contiguous", found=f"{plain / last:.2f}")
        if name != bench.sizes.towers[0]:  # it takes a minute for a large one
            return
        started = time.perf_counter()
        compiled = torch.compile(backbone.image_tower)
        compiled(pixels)
        bench.wait()
        waited = time.perf_counter() - started
        gain = bench.time(lambda: backbone.image_tower(pixels)) / bench.time(
            lambda: compiled(pixels)
        )
    yield Finding(
        what=f"{name}: torch.compile over eager",
        found=f"{gain:.2f}, after {waited:.0f} s of compiling",
    )


def measure_ranking(bench: Bench) -> Iterator[Finding]:
    """Ranking against a gallery in pinned memory, over the bare product."""
    sizes, cuda = bench.sizes, bench.device.type == "cuda"
    queries = unit_vectors(sizes.queries, WIDTH, 0).to(bench.device)
    gallery = torch.nn.functional.normalize(
        torch.randn(sizes.gallery, WIDTH, device=bench.device), dim=1
    ).cpu()
    gallery = gallery.pin_memory() if cuda else gallery
    asked = wanted(sizes.queries, sizes.gallery, min(200, sizes.gallery))

    def product() -> None:
        for first in range(0, len(gallery), PART_ROWS):
            part = gallery[first : first + PART_ROWS].to(bench.device, non_blocking=True)
            bare(queries, part)

    least = bench.time(product, rounds=2)
    started = time.perf_counter()
    rank_vectors(queries, gallery, asked)
    taken = time.perf_counter() - started
    yield Finding(
        what=f"ranking {sizes.queries:,} × {sizes.gallery:,} × {WIDTH} over the bare product",
        found=f"{taken / least:.2f}, {taken:.1f} s",
        target="≤ 1.3",
        ok=taken <= 1.3 * least,
    )


def list_parts(sizes: Sizes) -> dict[str, Callable[[Bench], Iterator[Finding]]]:
    """List the parts by name, in their order."""
    return {
        "features": check_features,
        "ranks": check_ranking,
        "evaluation": check_evaluation,
        "pic2word": check_pic2word,
        "combiner": check_combiner,
        "memory": check_memory,
        **{f"tower {name}": partial(measure_tower, name) for name in sizes.towers},
        "ranking": measure_ranking,
    }


def _embed(
    backbone: TorchBackbone,
    refs: Sequence[ImageRef],
    size: BatchSize | None = None,
    workers: int = 2,
) -> ImageFeatures:
    with QUIET.stage("gpu", len(refs)) as stage:
        embedder = Embedder(
            backbone=backbone,
            preprocess="clip",
            size=size or BatchSize(value=256),
            workers=workers,
            stage=stage,
        )
        return embed_images(embedder, refs)


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


def _forward(backbone: TorchBackbone, pixels: Tensor) -> None:
    with torch.inference_mode():
        backbone.encode_images(pixels)


def _random_towers(name: str, bench: Bench, precision: str) -> TorchBackbone:
    if name == "emoji-clip":
        return bench.load(precision=precision)
    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained=None)
    tokenizer = open_clip.get_tokenizer(name)
    return from_model(name, model, tokenizer, device=str(bench.device), precision=precision)


def _hold(what: str, apart: Tensor, most: float) -> Finding:
    greatest = float(apart.abs().max())
    return Finding(what=what, found=f"{greatest:.1e}", target=f"≤ {most:g}", ok=greatest <= most)


def _hold_losses(one: Sequence[float], other: Sequence[float], what: str, most: float) -> Finding:
    """Hold losses of the same steps to each other; where Adam divides by gradients near 0, weights
    differ by whole steps and losses do not."""
    apart = torch.tensor(one) / torch.tensor(other) - 1
    return _hold(f"{what}: losses of {len(one)} steps, greatest relative difference", apart, most)


def _evaluate(bench: Bench, device: str, precision: str) -> dict[str, Any]:
    request = Request(
        methods=_METHODS,
        task="emoji",
        backbone="emoji-clip",
        device=device,
        precision=precision,
        limit=bench.sizes.limit,
        output=bench.folder / f"{device}-{precision}".replace(":", "-"),
    )
    with store_in(bench.folder / "cache"):
        return {record.cell.method: record for record in run(plan(request), QUIET)}


def _compare(one: Any, other: Any) -> tuple[int, float]:
    """Give how many queries rank otherwise, and the greatest difference of a metric in points."""
    points = max(
        abs(value.value - other.metrics[row][metric].value)
        for row, values in one.metrics.items()
        for metric, value in values.items()
    )
    ours, theirs = one.read_per_query(), other.read_per_query()
    moved = (ours.first_rank != theirs.first_rank) & ~ours.fragile
    for query in np.flatnonzero((ours.top != theirs.top)[:, :_SHOWN].any(axis=1)).tolist():
        moved[query] |= not _only_ties(ours, theirs, query)
    return int(moved.sum()), points


def _only_ties(ours: PerQuery, theirs: PerQuery, query: int) -> bool:
    """Whether each place holds two items that we score as good as equal.

    Scores place by place would not tell: sorted, they agree whichever items they are of. An item
    that is not among ours scores at most what our last one does.
    """
    score = dict(zip(ours.top[query].tolist(), ours.similarity[query].tolist(), strict=True))
    last = float(ours.similarity[query, -1])
    places = zip(
        ours.top[query, :_SHOWN].tolist(), theirs.top[query, :_SHOWN].tolist(), strict=True
    )
    return all(abs(score[own] - score.get(other, last)) <= 1e-5 for own, other in places)


def _train_pic2word(
    bench: Bench, device: str, precision: str, name: str, cut: int | None = None
) -> list[float]:
    """Train some steps on the embedded pictures; give the losses."""
    job = pic2word.Pic2WordJob(
        recipe=pic2word.Pic2WordRecipe(
            epochs=1, batch_size=_BATCH, warmup_steps=5, middle_width=64
        ),
        backbone=bench.load(device, precision),
        images=bench.refs[: _BATCH * _STEPS],
        trained_on="emoji",
        output=bench.folder / f"{name}.safetensors",
    )
    if cut:
        interrupted = mock.patch.object(pic2word, "train_step", _interrupted(cut))
        with interrupted, suppress(KeyboardInterrupt):
            pic2word.train(job, QUIET)
    pic2word.train(job, QUIET, resume=cut is not None)
    lines = job.log_path.read_text(encoding="utf-8").splitlines()[1:]
    return [float(line.split(",")[1]) for line in lines]


def _interrupted(steps: int) -> Callable[..., float]:
    """Train so many steps, then stop as Ctrl-C does."""
    step = pic2word.train_step

    def train_step(learner: Any, job: Any, images: Tensor, number: int) -> float:
        if number == steps:
            raise KeyboardInterrupt
        return step(learner, job, images, number)

    return train_step


def _train_combiner(bench: Bench, device: str) -> list[float]:
    """Train some steps, each an epoch of all triplets; give the losses."""
    job = combiner.CombinerJob(
        **find_supervision("emoji", None),
        recipe=combiner.CombinerRecipe(epochs=_STEPS, projection=64, hidden=64),
        backbone=bench.load(device),
        output=bench.folder / f"combiner-{device or 'gpu'}.safetensors",
    )
    losses: list[float] = []
    one_epoch = combiner._train_epoch

    def noted(*given: Any) -> float:
        losses.append(one_epoch(*given))
        return losses[-1]

    with mock.patch.object(combiner, "_train_epoch", noted):
        combiner.train(job, QUIET)
    return losses


@contextmanager
def _limit(limit: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def end(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"it took longer than {limit:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def work_off(bench: Bench, parts: Sequence[str], output: Path) -> dict[str, Any]:
    """Do the parts, and write what is known after each."""
    report: dict[str, Any] = {
        "device": _describe_device(bench.device),
        "environment": asdict(describe_environment(str(bench.device))),
        "commit": read_code_state()["commit"],
        "parts": {},
    }
    started, known = time.monotonic(), list_parts(bench.sizes)
    for name in parts:
        left = SECONDS - (time.monotonic() - started)
        report["parts"][name] = _do(bench, known[name], left)
        _write(output, report)
        told = report["parts"][name]
        print(f"{name}: {told['seconds']:.0f} s {told['error'] or ''}", flush=True)
        for finding in told["findings"]:
            print(f"  {finding['what']}: {finding['found']}", flush=True)
    return report


def _do(bench: Bench, part: Callable[[Bench], Iterator[Finding]], left: float) -> dict[str, Any]:
    findings, error, started = list[dict[str, Any]](), "", time.monotonic()
    if left <= 0:
        return {"seconds": 0.0, "peak_mb": None, "error": "left out: no time", "findings": []}
    cuda = bench.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
    try:
        with _limit(left):
            for finding in part(bench):
                findings.append(asdict(finding))
    except Exception as failure:  # whatever it is, the next part goes on
        error = f"{type(failure).__name__}: {failure}".splitlines()[0]
    return {
        "seconds": time.monotonic() - started,
        "peak_mb": torch.cuda.max_memory_allocated(bench.device) / 2**20 if cuda else None,
        "error": error,
        "findings": findings,
    }


def _describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, no GPU"


def _write(output: Path, report: dict[str, Any]) -> None:
    texts = {"gpu.json": json.dumps(report, indent=2) + "\n", "gpu.md": render(report)}
    for name, text in texts.items():
        with write_whole(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def render(report: dict[str, Any]) -> str:
    """Render the page."""
    environment = report["environment"]
    lines = [
        "# On a GPU",
        f"Written by `make gpu` on {report['device']} ({environment['cpu']}, "
        f"{environment['cpu_count']} cores), torch {environment['packages']['torch']}, commit "
        f"{report['commit']}.",
    ]
    for name, part in report["parts"].items():
        memory = (
            "" if part["peak_mb"] is None else f", at most {part['peak_mb']:,.0f} MB on the GPU"
        )
        lines += [f"## {name}", f"{part['seconds']:.0f} s{memory}. {part['error']}".strip()]
        rows = [
            [f["what"], f["found"], f["target"], {None: "", True: "ok", False: "MISSED"}[f["ok"]]]
            for f in part["findings"]
        ]
        if rows:
            headers = ["what", "found", "target", ""]
            lines.append(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True))
    return "\n\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Everything, or the parts that are asked for."""
    parser = argparse.ArgumentParser(prog="perf.gpu")
    parser.add_argument("output", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", help="Parts.")
    parser.add_argument("--small", action="store_true", help="To see that the script works.")
    given = parser.parse_args(arguments)
    sizes = SMALL if given.small else Sizes()
    known = list_parts(sizes)
    if unknown := set(given.only or ()) - known.keys():
        parser.error(f"unknown part {min(unknown)!r}; known: {', '.join(known)}")
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(
            "this machine must have a CUDA GPU and a torch that finds it; --device cpu "
            "--small tries the script"
        )
    with tempfile.TemporaryDirectory() as name:
        work_off(Bench(device, sizes, Path(name)), given.only or list(known), given.output)


if __name__ == "__main__":
    main()
