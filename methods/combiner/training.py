"""Training the Combiner on triplets over a frozen CLIP: `bench train combiner`.

The recipe is that of ABaldrati/CLIP4Cir's README for its second stage: Adam, constant learning
rate, no augmentation, batches of 4,096, one of the wordings of each triplet drawn at each step, and
the weights of the epoch that is best on the selection split. The features of all images and texts
are computed once, since nothing that makes them is trained; the released code computes them anew
in each epoch, which gives the same.

Every random number is a function of the seed, the epoch and the step, so a training that was
interrupted and resumed ends, on the CPU, with the same bits as an unbroken one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.training import Training, TrainingRequest
from cirbench.benchmark.api.values import Selection, TaskData, Triplet
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.embedding.pictures import ImageFeatures
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.plan import choose_device
from cirbench.benchmark.runtime.errors import CheckFailed, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.torch_state import full_float32, seeded
from cirbench.benchmark.training.epochs import state_path_of, train_in_epochs
from cirbench.benchmark.training.features import embed_pictures, embed_texts
from cirbench.benchmark.training.learner import Learner
from cirbench.benchmark.training.selection import (
    describe_supervision,
    find_supervision,
    score_selection,
)
from cirbench.benchmark.training.state import (
    as_stored,
    identify_backbone,
    should_resume,
)
from cirbench.methods.combiner.method import Combiner, CombinerNetwork, contrastive_loss


@dataclass(frozen=True, kw_only=True)
class CombinerRecipe:
    """How a Combiner is trained; the defaults are the released README's.

    Attributes:
        projection, hidden: widths; None is 4 and 8 times the embedding's.
    """

    epochs: int = 300
    batch_size: int = 4096
    learning_rate: float = 2e-5
    projection: int | None = None
    hidden: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class CombinerJob:
    """A training: what on, with what, where to.

    Attributes:
        selection: on which split, under which protocol and by which metrics the best epoch is
            chosen; `validation` is that split.
    """

    recipe: CombinerRecipe
    backbone: Backbone
    triplets: Sequence[Triplet]
    selection: Selection
    validation: TaskData
    trained_on: str
    output: Path
    workers: int = 2

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to be resumed, and what its weights' header says."""
        identity = {
            "recipe": asdict(self.recipe),
            "backbone": identify_backbone(self.backbone),
            **describe_supervision(self.triplets, self.selection, self.validation),
        }
        return as_stored(identity)


class CombinerTraining(Training):
    """On the triplets of a task."""

    source = "task"
    recipe = CombinerRecipe

    def train(self, request: TrainingRequest, reporter: Reporter, *, resume: bool) -> None:
        backbone = load_backbone(
            request.backbone, device=choose_device(request.device), precision=request.precision
        )
        job = CombinerJob(
            **find_supervision(request.source, request.data_root),
            recipe=CombinerRecipe(**request.recipe),
            backbone=backbone,
            output=request.output,
            workers=request.workers,
        )
        train(job, reporter, resume=resume)


@dataclass(frozen=True, kw_only=True)
class TripletFeatures:
    """Features of T triplets and of the selection split, by the frozen towers and on their device.

    Attributes:
        references, targets: (T,) rows of `images`.
        captions: T tuples of rows of `texts`, one row a wording.
    """

    images: Tensor
    texts: Tensor
    references: Tensor
    targets: Tensor
    captions: Sequence[tuple[int, ...]]
    found: ImageFeatures
    query_texts: TextFeatures


def embed_triplets(job: CombinerJob, reporter: Reporter) -> TripletFeatures:
    """Embed each distinct image and text once."""
    refs = [ref for t in job.triplets for ref in (t.reference, t.target)]
    found = embed_pictures(
        job.backbone,
        job.selection.protocol.preprocess,
        [*refs, *job.validation.pictures.values()],
        job.workers,
        reporter,
    )
    captions = list(dict.fromkeys(caption for t in job.triplets for caption in t.captions))
    row = {caption: i for i, caption in enumerate(captions)}
    return TripletFeatures(
        images=found.values.to(job.backbone.device),
        texts=embed_texts(job.backbone, captions),
        references=torch.tensor([found.rows[t.reference.id] for t in job.triplets]),
        targets=torch.tensor([found.rows[t.target.id] for t in job.triplets]),
        captions=[tuple(row[caption] for caption in t.captions) for t in job.triplets],
        found=found,
        query_texts=TextFeatures(backbone=job.backbone, truncate=False),
    )


def make_batches(
    job: CombinerJob, features: TripletFeatures, epoch: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(B, C) references, texts and targets of an epoch; an incomplete last batch is dropped."""
    rng = np.random.default_rng((job.recipe.seed, epoch))
    order = rng.permutation(len(job.triplets))
    wording = rng.integers(1 << 30, size=len(order))
    size = min(job.recipe.batch_size, len(order))
    for start in range(0, len(order) - size + 1, size):
        rows = order[start : start + size]
        chosen = [features.captions[i][wording[i] % len(features.captions[i])] for i in rows]
        yield (
            features.images[features.references[rows]],
            features.texts[chosen],
            features.images[features.targets[rows]],
        )


@full_float32()
def train(job: CombinerJob, reporter: Reporter, *, resume: bool = False) -> float:
    """Train, write the best epoch's weights and a log, and give its selection score in percent.

    Raises:
        UsageError: no triplets, a resume with another recipe, or a state that would be lost.
        CheckFailed: the loss is not finite; the last good state stays on disk.
    """
    if len(job.triplets) < 2:
        raise UsageError(f"training needs at least 2 triplets, got {len(job.triplets)}")
    going_on = should_resume(state_path_of(job.output), resume=resume)
    features = embed_triplets(job, reporter)
    learner = make_learner(job)
    return train_in_epochs(
        learner,
        epochs=job.recipe.epochs,
        identity=job.identity(),
        header={"kind": "combiner", "trained_on": job.trained_on},
        output=job.output,
        one_epoch=lambda epoch: _train_epoch(learner, job, features, epoch),
        score=lambda: score_network(learner.network, job, features),
        reporter=reporter,
        resume=going_on,
    )


def make_learner(job: CombinerJob) -> Learner[CombinerNetwork]:
    """Make network and optimizer as they are before the first epoch."""
    with seeded(job.recipe.seed):
        network = CombinerNetwork(
            job.backbone.embedding_width, job.recipe.projection, job.recipe.hidden
        ).to(job.backbone.device)
    return Learner(
        network=network,
        scaler=torch.amp.GradScaler(enabled=False),
        optimizer=torch.optim.Adam(network.parameters(), lr=job.recipe.learning_rate),
    )


def _train_epoch(
    learner: Learner[CombinerNetwork],
    job: CombinerJob,
    features: TripletFeatures,
    epoch: int,
) -> float:
    """Train one epoch, and give its mean loss."""
    learner.network.train()
    losses = []
    with seeded(job.recipe.seed * 1_000_003 + epoch, job.backbone.device):  # dropout
        for references, texts, targets in make_batches(job, features, epoch):
            loss = contrastive_loss(learner.network(references, texts), targets)
            if not loss.isfinite():
                raise CheckFailed(
                    f"the loss must be finite, got {loss.item()} in epoch {epoch + 1}; --resume "
                    "continues from the epoch before; or try a lower --lr"
                )
            learner.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            learner.step()
            losses.append(loss.item())
    return float(np.mean(losses))


def score_network(network: CombinerNetwork, job: CombinerJob, features: TripletFeatures) -> float:
    """Score a network on the selection split; it is left in eval mode."""
    method = Combiner(network, job.trained_on)
    images, texts = features.found, features.query_texts
    return score_selection(method, job.selection, job.validation, images, texts)
