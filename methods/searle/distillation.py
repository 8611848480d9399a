"""Training SEARLE's network: each picture's optimised word is learned from its embedding.

For a batch of B pictures with words w (`inversion`) and u = phi(v), all 2 B of unit length, the
distillation is a symmetric contrastive loss: a word shall be nearest to its picture's other word
among the 2 B - 1 others, by cosine / 0.25. To it 0.75 times the phrases' loss of u is added, as in
inversion but with more concepts, and with the placeholder at every place of the concept, of which
only the first becomes the word. The last epoch is kept.

Every random number is a function of the seed and the step or the pictures, so a training that was
interrupted and resumed ends, on the CPU, with the same bits as an unbroken one.

Known deviations: the 24 templates are ours unless a file is given. The released code draws a
batch's concepts anew where one of them is left out; here the nearest are counted among those that
are not. It watches CIRR's val split, and selects nothing by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.training import TrainingRequest
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.evaluation.plan import choose_device
from cirbench.benchmark.images.sources import find_training_images
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.torch_state import full_float32, seeded
from cirbench.benchmark.training.epochs import state_path_of, train_in_epochs
from cirbench.benchmark.training.features import embed_pictures
from cirbench.benchmark.training.learner import Learner
from cirbench.benchmark.training.order import choose_rows
from cirbench.benchmark.training.state import (
    as_stored,
    describe_lines,
    identify_backbone,
    should_resume,
)
from cirbench.methods.searle.inversion import Language, find_near_concepts, invert, words_path_of
from cirbench.methods.searle.learning import make_learner, take_step
from cirbench.methods.searle.method import Phi
from cirbench.methods.searle.phrases import (
    PLACEHOLDER,
    Phrases,
    find_phrases,
    hide,
    read_templates,
)
from cirbench.methods.searle.recipe import SearleRecipe

PREPROCESS = "targetpad"
_FILES = ("phrases", "concepts", "templates")


@dataclass(frozen=True, kw_only=True)
class SearleJob:
    """A training: what on, with what, where to."""

    recipe: SearleRecipe
    backbone: Backbone
    images: Sequence[ImageRef]
    trained_on: str
    output: Path
    phrases: Phrases
    templates: Sequence[str]
    workers: int = 2

    @property
    def steps_per_epoch(self) -> int:
        """Incomplete batches are dropped."""
        return len(self.images) // self.recipe.batch_size

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to be resumed, and what its weights' header says.

        Files are in it by their content.
        """
        recipe = {k: value for k, value in asdict(self.recipe).items() if k not in _FILES}
        return as_stored(
            {
                "recipe": recipe,
                "images": describe_lines(ref.id for ref in self.images),
                "phrases": self.phrases.describe(),
                "templates": describe_lines(self.templates),
                "backbone": identify_backbone(self.backbone),
            }
        )


def make_job(recipe: SearleRecipe, request: TrainingRequest, reporter: Reporter) -> SearleJob:
    """Load what a request names.

    Raises:
        UsageError, MissingData, CorruptData: as the pictures, the phrases and the backbone say.
    """
    templates = read_templates(recipe.templates)
    refs, trained_on = find_training_images(
        request.source, data_root=request.data_root, say=reporter.say
    )
    phrases = find_phrases(
        phrases=recipe.phrases,
        concepts=recipe.concepts,
        templates=templates,
        titles=(ref.title for ref in refs),
    )
    if phrases.left_out:
        reporter.say(f"{phrases.left_out:,} concepts are left out: a phrase of theirs lacks them")
    backbone = load_backbone(
        request.backbone, device=choose_device(request.device), precision=request.precision
    )
    _check_context(backbone, phrases)
    return SearleJob(
        recipe=recipe,
        backbone=backbone,
        images=refs,
        trained_on=trained_on,
        output=request.output,
        phrases=phrases,
        templates=templates,
        workers=request.workers,
    )


def _check_context(backbone: Backbone, phrases: Phrases) -> None:
    """Refuse phrases that the backbone's context cuts before their concept: of all the latest."""
    latest, concept = max(
        ((phrase, concept) for concept, own in phrases.by_concept.items() for phrase in own),
        key=lambda said: said[0].index(said[1]),
    )
    word = torch.zeros(1, backbone.token_width)
    try:
        backbone.encode_prompts(
            [hide(latest, concept)], word, placeholder=PLACEHOLDER, truncate=True
        )
    except UsageError as error:
        raise UsageError(
            f"a phrase must have its concept within the {backbone.context_length} tokens that "
            f"{backbone.name} reads, got {concept!r} in {latest!r}"
        ) from error


@full_float32()
def train(job: SearleJob, reporter: Reporter, *, resume: bool = False) -> None:
    """Train, and write the last epoch's weights and a log.

    Raises:
        UsageError: fewer pictures than a batch, a resume with another recipe, or a state that would
            be lost.
        CheckFailed: the loss is not finite; the last good state stays on disk.
    """
    recipe, output = job.recipe, job.output
    if job.steps_per_epoch == 0:
        raise UsageError(
            f"a batch must be no larger than the pictures, got {recipe.batch_size} of "
            f"{len(job.images)}; lower --batch-size"
        )
    going_on = should_resume(state_path_of(output), resume=resume)
    words_path = words_path_of(output)
    should_resume(words_path, resume=resume)
    images = embed_pictures(job.backbone, PREPROCESS, job.images, job.workers, reporter)
    features = images.of(job.images)
    most = max(recipe.inversion_concepts, recipe.near_concepts)
    concepts, templates = job.phrases.concepts, job.templates
    language = Language(
        recipe=recipe,
        backbone=job.backbone,
        phrases=job.phrases,
        templates=templates,
        near=find_near_concepts(job.backbone, features, concepts, templates, most),
    )
    words = invert(features, language, words_path, job.identity, reporter, resume=resume)
    learner = make_learner(job.backbone, recipe)
    train_in_epochs(
        learner,
        epochs=recipe.epochs,
        identity=job.identity,
        header={"kind": "searle", "trained_on": job.trained_on},
        output=output,
        one_epoch=lambda epoch: _train_epoch(learner, language, features, words, epoch),
        score=None,
        reporter=reporter,
        resume=going_on,
    )
    words_path.unlink(missing_ok=True)
    steps = job.steps_per_epoch * recipe.epochs
    reporter.say(f"{steps} steps on {len(job.images)} images; {job.phrases.origin}")


def _train_epoch(
    learner: Learner[Phi], language: Language, features: Tensor, words: Tensor, epoch: int
) -> float:
    """Train one epoch on (N, C) raw embeddings and (N, W) words, and give its mean loss."""
    recipe, device = language.recipe, language.backbone.device
    learner.network.train()
    steps, losses = len(features) // recipe.batch_size, []
    for step in range(epoch * steps, (epoch + 1) * steps):
        rows = choose_rows(step, len(features), recipe.batch_size, recipe.seed).tolist()
        rng = np.random.default_rng((recipe.seed, step))
        with seeded(recipe.seed * 1_000_003 + step, device):  # dropout
            found = learner.network(features[rows].to(device))
        concepts = language.draw(rows, recipe.near_concepts, rng)
        said = language.compare(found, concepts, rng)
        loss = distil(words[rows].to(device), found, recipe.temperature)
        losses.append(take_step(learner, loss + recipe.phrase_weight * said, f"step {step + 1}"))
    return float(np.mean(losses))


def distil(words: Tensor, found: Tensor, temperature: float) -> Tensor:
    """The symmetric contrastive loss over (B, W) optimised words and phi's, pair i with pair i."""
    both = normalize(torch.cat([words, found]), dim=-1)
    logits = both @ both.T / temperature
    logits = logits.masked_fill(
        torch.eye(len(both), dtype=torch.bool, device=both.device), -torch.inf
    )
    partner = torch.arange(len(both), device=both.device).roll(len(words))
    return cross_entropy(logits, partner)
