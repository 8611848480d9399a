"""How fast pictures become vectors, and which stage decides it; the weights are random."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from perf.towers import jpegs
from torch import Tensor

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.backbones.base import TorchBackbone
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.backbones.open_clip import from_model
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, embed_images
from cirbench.benchmark.images.preprocess import Fit, make_fit, to_bytes
from cirbench.benchmark.images.reading import load_picture, prefetch
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.torch_state import seeded
from gpu.findings import Finding, Setting, say_error

QUIET = Reporter(quiet=True)
HALF = "bf16"
_BATCHES = 4
"""So many batches go through a tower that is measured alone."""


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A backbone with random weights, and pixels for it on its device."""

    setting: Setting
    backbone: TorchBackbone
    pixels: Tensor

    @classmethod
    def make(cls, setting: Setting, name: str) -> Tower:
        """In float32: an architecture of open_clip, or a backbone that has its weights here."""
        device = setting.device
        if name in open_clip.list_models():
            # drawn on the device, since a CPU takes seconds for them
            with seeded(0, device), torch.device(device):
                model = open_clip.create_model(name, pretrained=None, device=device)
            backbone = from_model(name, model, open_clip.get_tokenizer(name), device=device)
        else:
            loaded = load_backbone(name, device=device)
            assert isinstance(loaded, TorchBackbone)
            backbone = loaded
        side, count = backbone.image_spec.size, setting.sizes.tower_batch
        pixels = torch.randn(count, 3, side, side, device=setting.device)
        return cls(setting=setting, backbone=backbone, pixels=pixels)

    def in_precision(self, precision: str) -> Tower:
        """The same weights, cast; this tower must not be used any more."""
        return replace(self, backbone=replace(self.backbone, precision=precision))

    def forward_rate(self, rounds: int = 3) -> float:
        """Pictures a second through the tower, as cirbench runs it, from pixels on the device."""
        return _BATCHES * len(self.pixels) / self.setting.time(self._forward, rounds)

    @torch.inference_mode()
    def _forward(self) -> None:
        for _ in range(_BATCHES):
            self.backbone.encode_images(self.pixels)

    def layout_rates(self) -> tuple[float, float]:
        """Pictures a second with channels last, and first, weights and pixels alike."""
        rates = []
        for layout in (torch.channels_last, torch.contiguous_format):
            self.backbone.model.to(memory_format=layout)
            tower = self.backbone.image_tower
            weight = next(self.backbone.model.parameters())
            pixels = self.pixels.to(weight.dtype).contiguous(memory_format=layout)
            work = torch.inference_mode()(partial(_repeat, tower, pixels))
            rates.append(_BATCHES * len(pixels) / self.setting.time(work))
        self.backbone.model.to(memory_format=torch.channels_last)
        return rates[0], rates[1]

    def copy_rate(self) -> float:
        """Pictures a second from pinned memory to the device."""
        pixels = torch.empty(self.pixels.shape, dtype=torch.uint8, pin_memory=self.setting.on_gpu)
        work = partial(pixels.to, self.setting.device, non_blocking=True)
        return len(pixels) / self.setting.time(work)

    def decode_rate(self, refs: Sequence[ImageRef]) -> float:
        """Pictures a second from files to the tower's input, on all cores."""
        fit, cores = make_fit("clip", self.backbone.image_spec.size), self.setting.cores
        jobs = (partial(_decode_one, ref, fit, row) for row, ref in enumerate(refs))
        started = time.perf_counter()
        for _ in prefetch(jobs, workers=cores, ahead=2 * len(self.pixels)):
            pass
        return len(refs) / (time.perf_counter() - started)

    def whole_rate(self, refs: Sequence[ImageRef]) -> float:
        """Pictures a second from files to vectors on the CPU, as an evaluation embeds them."""
        started = time.perf_counter()
        with QUIET.stage("gpu", len(refs)) as stage:
            embedder = Embedder(
                backbone=self.backbone,
                preprocess="clip",
                size=BatchSize(value=len(self.pixels)),
                workers=self.setting.cores,
                stage=stage,
            )
            embed_images(embedder, refs)
        return len(refs) / (time.perf_counter() - started)


def decode_in_processes(tower: Tower, refs: Sequence[ImageRef]) -> float:
    """Pictures a second where no thread waits for another's hold on the interpreter."""
    cores = tower.setting.cores
    parts = [refs[start::cores] for start in range(min(cores, len(refs)))]
    decode = partial(_decode_some, size=tower.backbone.image_spec.size)
    with ProcessPoolExecutor(
        cores, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        list(pool.map(decode, [part[:1] for part in parts]))  # the processes start
        started = time.perf_counter()
        list(pool.map(decode, parts))
        return len(refs) / (time.perf_counter() - started)


def _decode_some(refs: Sequence[ImageRef], size: int) -> NDArray[np.uint8]:
    fit = make_fit("clip", size)
    return np.stack([_decode_one(ref, fit, row).numpy() for row, ref in enumerate(refs)])


def _decode_one(ref: ImageRef, fit: Fit, row: int) -> Tensor:
    return load_picture(ref, lambda image: to_bytes(fit(image)), row)[0]


def _repeat(tower: object, pixels: Tensor) -> None:
    for _ in range(_BATCHES):
        tower(pixels)  # type: ignore[operator]  # of nn.Module, untyped


def make_refs(setting: Setting) -> list[ImageRef]:
    """JPEGs, each read several times under several names, so that making them takes no time."""
    sizes = setting.sizes
    made = jpegs(setting.folder, sizes.distinct_pictures, sizes.picture_side)
    return [replace(made[i % len(made)], id=f"{i}") for i in range(sizes.pictures)]


def measure_embedding(setting: Setting) -> Iterator[Finding]:
    """Each tower: its stages alone, then all together."""
    refs = make_refs(setting)
    for name in setting.sizes.models:
        reset_peak(setting)
        yield from _measure_tower(setting, name, refs)


def _measure_tower(setting: Setting, name: str, refs: Sequence[ImageRef]) -> Iterator[Finding]:
    tower = Tower.make(setting, name)
    full = tower.forward_rate(rounds=1)  # seconds
    yield _rate(f"{name}: forward in float32", full)
    tower = tower.in_precision(HALF)
    half = tower.forward_rate()
    yield _rate(f"{name}: forward in {HALF}", half, f", {half / full:.2f} times float32")
    last, first = tower.layout_rates()
    yield _ratio(f"{name}: channels last against first, {HALF}", last / first)
    copied = tower.copy_rate()
    gigabytes = copied * tower.pixels[0].numel() / 1e9
    yield _rate(f"{name}: copy from pinned memory", copied, f", {gigabytes:.1f} GB/s")
    tower.whole_rate(refs[: len(tower.pixels)])  # threads, kernels and pinned memory are made once
    decoded = tower.decode_rate(refs)
    wide, high = setting.sizes.picture_side
    yield _rate(f"{name}: decode JPEGs of {wide} × {high} in {setting.cores} threads", decoded)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = tower.decode_rate(refs[: len(refs) // 2])
    finally:
        torch.set_num_threads(threads)
    yield _rate(f"{name}: the same where torch has one thread", alone)
    processes = decode_in_processes(tower, refs[: len(refs) // 2])
    yield _rate(f"{name}: the same in {setting.cores} processes", processes)
    whole = tower.whole_rate(refs)
    slowest = min(half, copied, decoded)
    yield _rate(f"{name}: files to vectors, {HALF}", whole)
    yield Finding(
        what=f"{name}: files to vectors as a share of the slowest stage",
        value=whole / slowest,
        shown=f"{whole / slowest:.2f}",
        target="≥ 0.9",
        ok=bool(whole / slowest >= 0.9),
    )
    if setting.on_gpu:
        peak = torch.cuda.max_memory_allocated() / 2**20
        yield Finding(what=f"{name}: GPU memory at the peak", value=peak, shown=f"{peak:,.0f} MB")


def measure_compile(setting: Setting) -> Iterator[Finding]:
    """torch.compile against eager; where it fails, the next tower is tried all the same."""
    for name in setting.sizes.models:
        reset_peak(setting)
        tower = Tower.make(setting, name).in_precision(HALF)
        what = f"{name}: torch.compile against eager, {HALF}"
        try:
            yield _compare_compiled(tower, what)
        except Exception as error:  # of any kind: a compiler is many programs
            yield Finding(what=what, shown=f"failed: {say_error(error)}")


def _compare_compiled(tower: Tower, what: str) -> Finding:
    eager = tower.forward_rate()
    compiled = replace(tower.backbone, image_tower=torch.compile(tower.backbone.image_tower))
    started = time.perf_counter()
    rate = replace(tower, backbone=compiled).forward_rate()
    seconds = time.perf_counter() - started
    return Finding(
        what=what,
        value=rate / eager,
        shown=f"{rate / eager:.2f}, {rate:,.0f} images/s; compiled and measured in {seconds:.0f} s",
    )


def reset_peak(setting: Setting) -> None:
    """Begin to measure the peak of GPU memory anew."""
    if setting.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _rate(what: str, rate: float, more: str = "") -> Finding:
    return Finding(what=what, value=rate, shown=f"{rate:,.0f} images/s{more}")


def _ratio(what: str, ratio: float) -> Finding:
    return Finding(what=what, value=ratio, shown=f"{ratio:.2f}")
