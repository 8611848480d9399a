"""Optimisation-based textual inversion: one pseudo-word for each picture of a training.

Each word w starts at random and is moved until it says in a sentence what its picture v shows, and
stays what the language says of concepts like it:

    L = (1 - cos(T("a photo of $" with $ := w), v)
         + 0.5 (1 - cos(T(phrase with $ := w), T(phrase)))) / 1.5

The template is drawn at each step; the phrase is one of a concept drawn from those nearest to v,
with the word at the concept's first place. The result is the moving average of the word. T is
frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.checkpoints import write_checkpoint
from cirbench.benchmark.images.reading import split_into_chunks
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.torch_state import seeded
from cirbench.benchmark.training.features import embed_texts
from cirbench.benchmark.training.learner import Learner, make_loss_scaler
from cirbench.benchmark.training.state import read_state, should_resume
from cirbench.methods.searle.learning import take_step
from cirbench.methods.searle.phrases import PLACEHOLDER, Phrases, hide
from cirbench.methods.searle.recipe import SearleRecipe

_FIRST_DEVIATION = 0.02
_SAVES = 50
"""How often the words so far are saved, at most: all are written anew each time."""
_CONCEPTS_AT_ONCE, _PICTURES_AT_ONCE = 64, 4096


@dataclass(frozen=True, kw_only=True)
class Language:
    """What is said of pictures, of which the recipe says how much is heard.

    Attributes:
        near: (N, K) rows of `phrases.concepts` for each picture, the nearest first.
    """

    recipe: SearleRecipe
    backbone: Backbone
    phrases: Phrases
    templates: Sequence[str]
    near: Tensor

    def draw(self, rows: Sequence[int], most: int, rng: np.random.Generator) -> list[str]:
        """A concept of each picture, of its `most` nearest."""
        near = self.near[list(rows), :most]
        places = rng.integers(near.shape[1], size=len(near))
        names = self.phrases.concepts
        return [names[row[place]] for row, place in zip(near.tolist(), places, strict=True)]

    def compare(
        self, words: Tensor, concepts: Sequence[str], rng: np.random.Generator, count: int = -1
    ) -> Tensor:
        """The mean of 1 - cos between each concept's phrase as it is, and with the word in it.

        Args:
            count: at how many of its places the concept is hidden; the word is put at the first.
        """
        phrases = self.phrases.draw(concepts, rng)
        hidden = [hide(p, c, count) for p, c in zip(phrases, concepts, strict=True)]
        with torch.no_grad():
            whole = self.backbone.encode_texts(phrases, truncate=True)
        said = self.backbone.encode_prompts(hidden, words, placeholder=PLACEHOLDER, truncate=True)
        return (1 - cosine_similarity(said, whole)).mean()


def find_near_concepts(
    backbone: Backbone, images: Tensor, concepts: Sequence[str], templates: Sequence[str], most: int
) -> Tensor:
    """(N, C) raw embeddings → (N, K ≤ most) rows of `concepts`, the nearest first.

    A concept is the mean of its unit embeddings in all templates.
    """

    def embed(part: Sequence[str]) -> Tensor:
        texts = [template.replace(PLACEHOLDER, name) for name in part for template in templates]
        found = normalize(embed_texts(backbone, texts), dim=-1)
        return normalize(found.view(len(part), len(templates), -1).mean(dim=1), dim=-1).cpu()

    said = torch.cat([embed(part) for part in split_into_chunks(concepts, _CONCEPTS_AT_ONCE)])
    starts = range(0, len(images), _PICTURES_AT_ONCE)
    parts = (normalize(images[i : i + _PICTURES_AT_ONCE], dim=-1) @ said.T for i in starts)
    return torch.cat([part.topk(min(most, len(concepts))).indices for part in parts])


def compute_loss(
    words: Tensor,
    images: Tensor,
    rows: Sequence[int],
    language: Language,
    rng: np.random.Generator,
) -> Tensor:
    """Compute the mean loss of (b, W) words, given the (b, C) raw embeddings of pictures `rows`."""
    recipe = language.recipe
    prompts = [str(rng.choice(language.templates))] * len(rows)
    said = language.backbone.encode_prompts(prompts, words, placeholder=PLACEHOLDER)
    concepts = language.draw(rows, recipe.inversion_concepts, rng)
    phrases = language.compare(words, concepts, rng, count=1)
    weight = recipe.inversion_phrase_weight
    return ((1 - cosine_similarity(said, images)).mean() + weight * phrases) / (1 + weight)


def invert_part(images: Tensor, rows: Sequence[int], language: Language) -> Tensor:
    """(b, C) raw embeddings of the pictures `rows` → (b, W) words on the CPU.

    Raises:
        CheckFailed: the loss is not finite.
    """
    backbone, recipe = language.backbone, language.recipe
    rng = np.random.default_rng((recipe.seed, rows[0]))
    with seeded(recipe.seed * 1_000_003 + rows[0]):
        first = _FIRST_DEVIATION * torch.randn(len(rows), backbone.token_width)
    words = nn.Parameter(first.to(backbone.device))
    network = nn.ParameterDict({"words": words})
    learner = Learner(
        network=network,
        optimizer=torch.optim.AdamW(
            network.parameters(), lr=recipe.inversion_rate, weight_decay=recipe.weight_decay
        ),
        scaler=make_loss_scaler(backbone),
    )
    images = images.to(backbone.device)
    average = words.detach().clone()
    for step in range(recipe.inversion_steps):
        loss = compute_loss(words, images, rows, language, rng)
        take_step(learner, loss, f"step {step + 1} of the images from {rows[0] + 1}")
        average = recipe.ema * average + (1 - recipe.ema) * words.detach()
    return average.cpu()


def words_path_of(output: Path) -> Path:
    """Where the pictures' words are kept until the network is done."""
    return output.with_suffix(".words.safetensors")


def invert(
    images: Tensor,
    language: Language,
    path: Path,
    identity: Mapping[str, Any],
    reporter: Reporter,
    *,
    resume: bool,
) -> Tensor:
    """(N, C) raw embeddings → (N, W) words on the CPU, saved at `path` as they are made.

    Raises:
        UsageError: words are saved there and no resume was asked for, or are of another training.
    """
    parts: list[Tensor] = []
    if should_resume(path, resume=resume):
        parts.append(read_state(path, identity).content["words"])
    done, size = sum(map(len, parts)), language.recipe.inversion_batch
    between = -(-len(images) // (size * _SAVES))
    with reporter.stage("textual inversion", len(images)) as stage:
        stage.advance(done)
        for number, start in enumerate(range(done, len(images), size), start=1):
            rows = range(start, min(start + size, len(images)))
            parts.append(invert_part(images[start : rows.stop], rows, language))
            stage.advance(len(rows))
            if number % between == 0 or rows.stop == len(images):
                write_checkpoint(path, {"words": torch.cat(parts)}, identity)
    return torch.cat(parts)
