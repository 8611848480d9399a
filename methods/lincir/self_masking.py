"""Training LinCIR's network on captions alone: self-masking projection.

A caption's embedding e, with noise, becomes a pseudo-word, which is put in place of each run of
nouns, adjectives and determiners; the caption's embedding shall stay what it was:

    L = mean((T(masked caption with * := phi(e + u n)) - e)²)

with u ~ U(0, 1) once a caption and n ~ N(0, 1) for each element. All of it is un-normalised, and T
frozen.

An "epoch" of log and header is the steps from one selection to the next (`validate_every`).

Every random number is a function of the seed and the step, so a training that was interrupted and
resumed ends, on the CPU, with the same bits as an unbroken one.

Known deviations: the released training has its towers in half precision (here `--precision`), also
where it selects, and selects once more after 50 steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.training import TrainingRequest
from cirbench.benchmark.api.values import Selection, TaskData
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.plan import choose_device
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.torch_state import full_float32, seeded
from cirbench.benchmark.training.epochs import state_path_of, train_in_epochs
from cirbench.benchmark.training.learner import Learner
from cirbench.benchmark.training.order import choose_rows
from cirbench.benchmark.training.selection import (
    describe_selection,
    embed_selection,
    find_selection,
    score_selection,
)
from cirbench.benchmark.training.state import (
    as_stored,
    describe_lines,
    identify_backbone,
    should_resume,
)
from cirbench.benchmark.training.texts import find_training_texts
from cirbench.methods.lincir.captions import Tagger, clean, find_tagger, mask
from cirbench.methods.lincir.method import LinCIR
from cirbench.methods.lincir.recipe import NO_SELECTION, LincirRecipe
from cirbench.methods.searle.learning import make_learner, take_step
from cirbench.methods.searle.method import Phi

SELECTIONS = {"cirr": ("lincir", ("R@1",))}
"""Task → the protocol and the metrics of the paper; of any other task its own."""


@dataclass(frozen=True, kw_only=True)
class LincirJob:
    """A training: what on, with what, where to.

    Attributes:
        selection, validation: how the best state is selected, and on what; None: the last is kept.
    """

    recipe: LincirRecipe
    backbone: Backbone
    texts: Sequence[str]
    trained_on: str
    output: Path
    tag: Tagger
    selection: Selection | None = None
    validation: TaskData | None = None
    workers: int = 2

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to be resumed, and what its weights' header says."""
        identity: dict[str, Any] = {
            "recipe": asdict(self.recipe),
            "texts": describe_lines(self.texts),
            "backbone": identify_backbone(self.backbone),
        }
        if self.selection and self.validation:
            identity["selection"] = describe_selection(self.selection, self.validation)
        return as_stored(identity)


def make_job(recipe: LincirRecipe, request: TrainingRequest, reporter: Reporter) -> LincirJob:
    """Load what a request names.

    Raises:
        UsageError, MissingData, CorruptData: as captions, task and backbone say.
    """
    tag = find_tagger(recipe.keywords)
    texts, trained_on = find_training_texts(
        request.source, data_root=request.data_root, say=reporter.say
    )
    selection, validation = None, None
    if recipe.select_on != NO_SELECTION:
        choose = SELECTIONS.get(recipe.select_on)
        selection, validation = find_selection(recipe.select_on, request.data_root, choose)
    return LincirJob(
        recipe=recipe,
        backbone=load_backbone(
            request.backbone, device=choose_device(request.device), precision=request.precision
        ),
        texts=texts,
        trained_on=trained_on,
        output=request.output,
        tag=tag,
        selection=selection,
        validation=validation,
        workers=request.workers,
    )


@full_float32()
def train(job: LincirJob, reporter: Reporter, *, resume: bool = False) -> float:
    """Train, write the weights and a log, and give the selection score in percent, if there is one.

    Raises:
        UsageError: fewer captions than a batch, a resume with another recipe, or a state that would
            be lost.
        CheckFailed: the loss is not finite; the last good state stays on disk.
    """
    recipe = job.recipe
    if len(job.texts) < recipe.batch_size:
        raise UsageError(
            f"a batch must be no larger than the captions, got {recipe.batch_size} of "
            f"{len(job.texts)}; lower --batch-size"
        )
    going_on = should_resume(state_path_of(job.output), resume=resume)
    learner = make_learner(job.backbone, job.recipe)
    selection = _Selection(job, reporter) if job.selection else None
    best = train_in_epochs(
        learner,
        epochs=-(-recipe.steps // recipe.validate_every),
        identity=job.identity(),
        header={"kind": "lincir", "trained_on": job.trained_on},
        output=job.output,
        one_epoch=lambda part: _train_part(learner, job, part),
        score=(lambda: selection.score(learner.network)) if selection else None,
        reporter=reporter,
        resume=going_on,
    )
    said = f", best selection score {best:.2f}" if selection else ""
    reporter.say(f"{recipe.steps} steps on {len(job.texts)} captions{said}")
    return best


class _Selection:
    """The split on which the best state is selected, embedded once."""

    def __init__(self, job: LincirJob, reporter: Reporter) -> None:
        assert job.selection
        assert job.validation
        self._job, self._selection, self._data = job, job.selection, job.validation
        self._images = embed_selection(
            job.backbone, job.selection, job.validation, job.workers, reporter
        )
        self._texts = TextFeatures(backbone=job.backbone, truncate=False)

    def score(self, phi: Phi) -> float:
        """Score a network; it is left in eval mode."""
        method = LinCIR(phi, self._job.trained_on)
        return score_selection(
            method, self._selection, self._data, self._images, self._texts, batch_size=256
        )


def _train_part(learner: Learner[Phi], job: LincirJob, part: int) -> float:
    """Take the steps up to the next selection, and give their mean loss."""
    recipe = job.recipe
    learner.network.train()
    first = part * recipe.validate_every
    steps = range(first, min(first + recipe.validate_every, recipe.steps))
    losses = []
    for step in steps:
        with seeded(recipe.seed * 1_000_003 + step, job.backbone.device):  # noise and dropout
            loss = compute_loss(learner.network, job, step)
            losses.append(take_step(learner, loss, f"step {step + 1}"))
    return float(np.mean(losses))


def compute_loss(phi: Phi, job: LincirJob, step: int) -> Tensor:
    """Compute the loss of a step's captions; what it draws depends on torch's state alone."""
    recipe, backbone = job.recipe, job.backbone
    rows = choose_rows(step, len(job.texts), recipe.batch_size, recipe.seed)
    captions = [clean(job.texts[row]) for row in rows]
    rng = np.random.default_rng((recipe.seed, step))
    masked = [mask(caption, job.tag, rng) for caption in captions]
    with torch.no_grad():
        originals = backbone.encode_texts(captions, truncate=True)
    noise = torch.rand(len(rows), 1) * torch.randn(originals.shape)
    words = phi(originals + noise.to(originals))
    found = backbone.encode_prompts(masked, words, truncate=True, every=True)
    return mse_loss(found, originals)
