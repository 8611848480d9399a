"""Trains a tiny CLIP from nothing on a task's lessons: `bench train tiny-clip --task TASK`.

It is open_clip's own CLIP class, a small ModifiedResNet and a two-layer text transformer, and the
result a plain `local-dir:` model of open_clip.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from cirbench.benchmark.api.backbone import CLIP_MEAN, CLIP_STD
from cirbench.benchmark.api.lessons import Lesson, Lessons
from cirbench.benchmark.images import decoding
from cirbench.benchmark.images.preprocess import make_fit, to_bytes
from cirbench.benchmark.runtime.files import write_whole
from cirbench.benchmark.runtime.torch_state import seeded
from cirbench.benchmark.training.schedule import warm_up_then_cosine

CONTEXT = 77
_MOST_PICTURES = 8_000
"""So many stay decoded."""


@dataclass(frozen=True, kw_only=True)
class TinyClipRecipe:
    """How a tiny CLIP is trained.

    Attributes:
        tasks: whose lessons it is trained on.
        context: no text is longer; the positions beyond stay zero, as do the rows of tokens that
            were never seen.
        preprocess: how pictures become the tower's squares; the protocols of the task have it too.
    """

    tasks: tuple[str, ...] = ()
    steps: int = 1000
    context: int = 24
    learning_rate: float = 1.5e-3
    warmup: int = 50
    weight_decay: float = 0.1
    image_size: int = 48
    preprocess: str = "clip"
    image_width: int = 16
    image_layers: tuple[int, ...] = (1, 1, 1, 1)
    embedding_width: int = 128
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    rotation_degrees: float = 10.0
    scale: tuple[float, float] = (0.85, 1.1)
    shift: float = 0.08
    colour: float = 0.15
    seed: int = 0


def describe_model(recipe: TinyClipRecipe, context: int) -> dict[str, object]:
    """open_clip's description of the model."""
    return {
        "embed_dim": recipe.embedding_width,
        "vision_cfg": {
            "layers": list(recipe.image_layers),
            "width": recipe.image_width,
            "image_size": recipe.image_size,
        },
        "text_cfg": {
            "context_length": context,
            "vocab_size": 49408,
            "width": recipe.text_width,
            "heads": recipe.text_heads,
            "layers": recipe.text_layers,
        },
    }


def make_model(recipe: TinyClipRecipe) -> open_clip.CLIP:
    """A model with random weights, its unseen parts still random."""
    config = describe_model(recipe, recipe.context)
    return open_clip.CLIP(
        embed_dim=recipe.embedding_width,
        vision_cfg=open_clip.CLIPVisionCfg(
            **{**config["vision_cfg"], "layers": recipe.image_layers}  # type: ignore[dict-item]  # plain JSON above
        ),
        text_cfg=open_clip.CLIPTextCfg(**config["text_cfg"]),  # type: ignore[arg-type]  # plain JSON above
    )


def augment(pixels: Tensor, recipe: TinyClipRecipe, generator: torch.Generator) -> Tensor:
    """(B, 3, S, S) uint8 → float32 0..1: rotated, scaled, shifted on white, colours changed."""
    n = len(pixels)
    uniform = torch.rand(n, 4, generator=generator)
    angle = (2 * uniform[:, 0] - 1) * recipe.rotation_degrees * torch.pi / 180
    low, high = recipe.scale
    zoom = 1 / (low + (high - low) * uniform[:, 1])
    shift = (2 * uniform[:, 2:] - 1) * 2 * recipe.shift
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    ink = F.grid_sample(1 - pixels.float() / 255, grid, align_corners=False)
    jitter = 1 + recipe.colour * (2 * torch.rand(n, 3, 1, 1, generator=generator) - 1)
    return (1 - ink * jitter).clamp(0, 1)


def normalise(pixels: Tensor) -> Tensor:
    """0..1 → CLIP's normalisation."""
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    return (pixels - mean) / std


def mark_also_true(lessons: Sequence[Lesson]) -> Tensor:
    """(B, B) bool: text i is true of picture j too, which so is no negative; False at i = j."""
    names = {name for lesson in lessons for name in lesson.said}
    shown = {name: np.array([one.shows.get(name, "") for one in lessons]) for name in names}
    matrix = np.ones((len(lessons), len(lessons)), dtype=bool)
    for row, lesson in zip(matrix, lessons, strict=True):
        for name, value in lesson.said.items():
            row &= shown[name] == value
    return torch.from_numpy(matrix).fill_diagonal_(False)


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, ignored: Tensor) -> Tensor:
    """Symmetric cross-entropy over a batch of B pairs, leaving out the pairs (B, B) `ignored`."""
    logits = scale * F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    logits = logits.masked_fill(ignored, -torch.inf)
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@lru_cache(_MOST_PICTURES)
def decode(content: bytes, preprocess: str, size: int) -> Tensor:
    """A picture's file → (3, size, size) uint8."""
    pixels = to_bytes(make_fit(preprocess, size)(decoding.decode(content)))
    return pixels.permute(2, 0, 1).contiguous()


def make_recipe(lessons: Sequence[Lessons], **asked: Any) -> TinyClipRecipe:
    """The recipe for a CLIP of one or more tasks: that of the first, with as many steps as they
    have together, and what a person asks for."""
    recipes = [TinyClipRecipe(**{**one.recipe, **asked}) for one in lessons]
    return replace(recipes[0], steps=asked.get("steps") or sum(one.steps for one in recipes))


def take_turns(lessons: Sequence[Lessons], rng: np.random.Generator) -> Iterator[Sequence[Lesson]]:
    """Endless batches, of each task in turn."""
    for batches in cycle([one.draw_batches(rng) for one in lessons]):
        yield next(batches)


def train(
    lessons: Sequence[Lessons],
    output: Path,
    recipe: TinyClipRecipe,
    report: Callable[[int, float], None] = lambda *_: None,
) -> None:
    """Train and write the model folder; `report` hears each step and its loss."""
    rng = np.random.default_rng(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    with seeded(recipe.seed):
        model = make_model(recipe)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=recipe.weight_decay, betas=(0.9, 0.98), eps=1e-6
    )
    seen = torch.zeros(49408, dtype=torch.bool)
    for step, batch in zip(range(recipe.steps), take_turns(lessons, rng), strict=False):
        optimizer.param_groups[0]["lr"] = warm_up_then_cosine(
            step, recipe.steps, peak=recipe.learning_rate, warmup=recipe.warmup
        )
        ids = tokenizer([lesson.text for lesson in batch], context_length=recipe.context)
        seen[ids] = True
        pixels = torch.stack(
            [decode(one.picture.read(), recipe.preprocess, recipe.image_size) for one in batch]
        )
        images = model.encode_image(normalise(augment(pixels, recipe, generator)))
        loss = contrastive_loss(
            images,
            model.encode_text(ids),
            model.logit_scale.exp(),
            mark_also_true(batch),
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(100)))
        report(step, loss.item())
    export_model(model, seen, recipe, output)


def export_model(model: open_clip.CLIP, seen: Tensor, recipe: TinyClipRecipe, output: Path) -> None:
    """Write open_clip_config.json and open_clip_model.safetensors (fp16)."""
    weights = {name: t.detach().clone() for name, t in model.state_dict().items()}
    weights["token_embedding.weight"][~seen] = 0
    positions = weights["positional_embedding"]
    weights["positional_embedding"] = F.pad(positions, (0, 0, 0, CONTEXT - recipe.context))
    halves = {n: t.half() if t.is_floating_point() else t for n, t in weights.items()}
    config = {
        "model_cfg": describe_model(recipe, CONTEXT),
        "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic"},
        "recipe": asdict(recipe),
    }
    with write_whole(output / "open_clip_model.safetensors") as path:
        save_file(halves, path)
    with write_whole(output / "open_clip_config.json") as path:
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
