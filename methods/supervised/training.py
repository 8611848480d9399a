"""Training a supervised system on triplets: `bench train tirg`, `maaf`, `artemis`, `cirplant`.

Over a frozen backbone each picture is embedded once. A trunk (torchvision:… or tiny) is trained
along, unless the recipe keeps it frozen: then pictures are read at every step, changed as the
recipe says, and the selection split is embedded anew after each epoch.

Every random number is a function of the seed, the epoch and the step, so a training that was
interrupted and resumed ends, on the CPU, with the same bits as an unbroken one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.registry import find_method
from cirbench.benchmark.api.training import TrainingRequest
from cirbench.benchmark.api.values import ImageRef, Selection, TaskData, Triplet
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.backbones.trunks import Trunk, fill_trunk
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
from cirbench.benchmark.training.state import as_stored, identify_backbone, should_resume
from cirbench.methods.supervised.batch import Batch
from cirbench.methods.supervised.batches import Example, count_steps, make_batches, make_examples
from cirbench.methods.supervised.method import Supervised
from cirbench.methods.supervised.pictures import AugmentedPictures, find_augmentation
from cirbench.methods.supervised.recipe import SupervisedRecipe
from cirbench.methods.supervised.towers import Texts
from cirbench.methods.supervised.trained import make_towers
from cirbench.methods.supervised.vocabulary import Vocabulary, pad

_MOMENTUM = 0.9
_QUERIES_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class SupervisedJob:
    """A training: of what, on what, over which pictures, where to."""

    method: type[Supervised]
    recipe: SupervisedRecipe
    backbone: Backbone
    triplets: Sequence[Triplet]
    selection: Selection
    validation: TaskData
    trained_on: str
    output: Path
    workers: int = 2

    @property
    def trunk(self) -> Trunk | None:
        """The trunk that is trained along, if one is."""
        learns = self.recipe.trains_trunk
        return self.backbone if isinstance(self.backbone, Trunk) and learns else None

    @cached_property
    def examples(self) -> list[Example]:
        """The triplets as they are seen, worded by the protocol that selects."""
        protocol = self.selection.protocol
        family = self.method.find_family(protocol)
        every_order = self.recipe.every_order
        return make_examples(self.triplets, protocol, family, every_order=every_order)

    @property
    def texts(self) -> list[str]:
        """The distinct wordings, in their order."""
        return list(dict.fromkeys(text for example in self.examples for text in example.texts))

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to be resumed, and what its weights' header says."""
        return as_stored(
            {
                "recipe": self.recipe.describe(),
                "backbone": identify_backbone(self.backbone),
                **describe_supervision(self.triplets, self.selection, self.validation),
            }
        )


def make_job(
    method: str,
    recipe: SupervisedRecipe,
    request: TrainingRequest,
    selection: tuple[str, tuple[str, ...]] | None,
) -> SupervisedJob:
    """Load what a request names.

    Raises:
        UsageError, MissingData, CorruptData: as the task and the backbone say.
    """
    find_augmentation(recipe.augmentation)
    supervision = find_supervision(request.source, request.data_root, selection)
    if len(supervision["triplets"]) < 2:
        raise UsageError(f"training needs at least 2 triplets, got {len(supervision['triplets'])}")
    return SupervisedJob(
        method=find_method(method),
        recipe=recipe,
        backbone=load_backbone(
            request.backbone, device=choose_device(request.device), precision=request.precision
        ),
        output=request.output,
        workers=request.workers,
        **supervision,
    )


class FrozenTowers:
    """Pictures and texts of a job as features, each encoded once."""

    def __init__(self, job: SupervisedJob, words: Vocabulary | None, reporter: Reporter) -> None:
        self.job, self.words = job, words
        shown = (ref for t in job.triplets for ref in (t.reference, t.target, *t.equals))
        refs = chain(shown, job.validation.pictures.values())
        protocol = job.selection.protocol
        self.images = embed_pictures(job.backbone, protocol.preprocess, refs, job.workers, reporter)
        self._values = self.images.values.to(job.backbone.device)
        texts = job.texts
        self._rows = {text: i for i, text in enumerate(texts)}
        self._ids = [words.encode(text) for text in texts] if words else []
        self._texts = Tensor() if words else embed_texts(job.backbone, texts)

    def read_pictures(self, steps: Sequence[Sequence[ImageRef]], epoch: int) -> Iterator[Tensor]:
        for refs in steps:
            yield self._values[[self.images.rows[ref.id] for ref in refs]]

    def read_texts(self, texts: Sequence[str]) -> Texts:
        rows = [self._rows[text] for text in texts]
        if self._ids:
            return pad([self._ids[row] for row in rows]).to(self._values.device)
        return self._texts[rows]

    def view(self, network: nn.Module) -> tuple[Backbone, ImageFeatures, nn.Module]:
        """Backbone, features and network by which a selection judges."""
        return self.job.backbone, self.images, network


class OwnTowers:
    """Pictures and words of a job as the network's own towers take them."""

    def __init__(self, job: SupervisedJob, words: Vocabulary) -> None:
        self.job, self.words = job, words
        self._ids = {text: words.encode(text) for text in job.texts}
        self._pictures = AugmentedPictures(
            augmentation=job.recipe.augmentation,
            spec=job.backbone.image_spec,
            seed=job.recipe.seed,
            workers=job.workers,
        )

    def read_pictures(self, steps: Sequence[Sequence[ImageRef]], epoch: int) -> Iterator[Tensor]:
        draws = ((ref, draw) for draw, ref in enumerate(chain.from_iterable(steps), 1))
        loaded = self._pictures.load(draws, epoch=epoch, ahead=2 * len(steps[0]))
        for refs in steps:
            yield torch.stack(list(islice(loaded, len(refs)))).to(self.job.backbone.device)

    def read_texts(self, texts: Sequence[str]) -> Texts:
        return pad([self._ids[text] for text in texts]).to(self.job.backbone.device)

    def view(self, network: nn.Module) -> tuple[Backbone, ImageFeatures, nn.Module]:
        """Backbone, features and network by which a selection judges."""
        job, frozen = self.job, deepcopy(network)
        device = str(job.backbone.device)
        backbone = make_towers(frozen, self.words, job.backbone.image_spec, device)
        pictures = job.validation.pictures.values()
        preprocess, quiet = job.selection.protocol.preprocess, Reporter(quiet=True)
        return backbone, embed_pictures(backbone, preprocess, pictures, job.workers, quiet), frozen


def start(job: SupervisedJob) -> tuple[Any, Vocabulary | None]:
    """Make network and words as they are before the first epoch.

    Raises:
        UsageError: the recipe's numbers make no network, or a trunk is asked to learn in another
            precision than fp32.
    """
    trunk, backbone = job.trunk, job.backbone
    if trunk and trunk.precision != "fp32":
        raise UsageError(f"a trunk is trained in fp32 alone, got {trunk.precision}")
    reads = job.method.reads_features and backbone.context_length
    towers = {
        "trunk": trunk.trunk if trunk else None,
        "image_width": 0 if trunk else backbone.embedding_width,
        "text_width": backbone.embedding_width if reads else 0,
        "words": not reads,
    }
    with seeded(job.recipe.seed):
        try:
            network, words = job.method.start(asdict(job.recipe), towers, job.texts)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if trunk:
        fill_trunk(network.trunk, {n: t.float() for n, t in trunk.state_dict().items()})
    return network.to(backbone.device), words


def make_learner(job: SupervisedJob, network: nn.Module) -> Learner[Any]:
    """Make the optimizer, with a group for each pair of rate and decay."""
    recipe = job.recipe
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        of_trunk = job.trunk is not None and name.startswith(recipe.trunk_parts)
        share = recipe.trunk_rate if of_trunk else 1.0
        decay = recipe.weight_decay if recipe.is_decayed(name) else 0.0
        groups.setdefault((share, decay), []).append(parameter)
    parts: list[dict[str, Any]] = [
        {"params": parameters, "share": share, "weight_decay": decay, "lr": 0.0}
        for (share, decay), parameters in groups.items()
    ]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(parts, momentum=_MOMENTUM)
    else:
        optimizer = torch.optim.AdamW(parts)
    scaler = torch.amp.GradScaler(enabled=False)
    return Learner(network=network, optimizer=optimizer, scaler=scaler)


def make_header(job: SupervisedJob, network: Any, words: Vocabulary | None) -> dict[str, Any]:
    """Make what a file of weights says besides the job's identity, so that they can be read."""
    header = {"kind": job.method.name, "trained_on": job.trained_on, "shape": asdict(network.shape)}
    if words:
        header["words"] = list(words.words)
    if job.trunk:
        header["image"] = job.trunk.image_spec.as_dict()
    return header


@full_float32()
def train(job: SupervisedJob, reporter: Reporter, *, resume: bool = False) -> float:
    """Train, write the best epoch's weights and a log, and give its selection score in percent.

    Raises:
        UsageError: what `start` says, a resume with another recipe, or a state that would be lost.
        CheckFailed: the loss is not finite; the last good state stays on disk.
    """
    going_on = should_resume(state_path_of(job.output), resume=resume)
    network, words = start(job)
    towers = OwnTowers(job, words) if job.trunk and words else FrozenTowers(job, words, reporter)
    learner = make_learner(job, network)
    best = train_in_epochs(
        learner,
        epochs=job.recipe.count_epochs(count_steps(job.examples, job.recipe)),
        identity=job.identity(),
        header=make_header(job, network, words),
        output=job.output,
        one_epoch=lambda epoch: _train_epoch(learner, job, towers, epoch),
        score=lambda: _score(network, job, towers),
        reporter=reporter,
        resume=going_on,
    )
    reporter.say(f"{len(job.triplets)} triplets, best selection score {best:.2f}")
    return best


def _train_epoch(
    learner: Learner[Any], job: SupervisedJob, towers: FrozenTowers | OwnTowers, epoch: int
) -> float:
    """Train one epoch, and give its mean loss."""
    network, recipe = learner.network.train(), job.recipe
    frozen = recipe.list_frozen(epoch)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    done = epoch * count_steps(job.examples, recipe)
    losses = []
    with seeded(recipe.seed * 1_000_003 + epoch, job.backbone.device):  # dropout
        batches = make_batches(job.examples, recipe, epoch, towers.read_pictures, towers.read_texts)
        for step, batch in enumerate(batches, done):
            for group in learner.optimizer.param_groups:
                rate = recipe.learning_rate * recipe.find_rate(epoch, step)
                group["lr"] = group["share"] * rate
            losses.append(_take_step(learner, recipe, batch, epoch))
    return float(np.mean(losses))


def _take_step(learner: Learner[Any], recipe: SupervisedRecipe, batch: Batch, epoch: int) -> float:
    loss = learner.network.compute_loss(batch)
    if not loss.isfinite():
        raise CheckFailed(
            f"the loss must be finite, got {loss.item()} in epoch {epoch + 1}; --resume continues "
            "from the epoch before; or try a lower --learning-rate"
        )
    learner.optimizer.zero_grad()
    loss.backward()
    if recipe.largest_gradient:
        nn.utils.clip_grad_norm_(learner.network.parameters(), recipe.largest_gradient)
    learner.step()
    return float(loss.item())


def _score(network: nn.Module, job: SupervisedJob, towers: FrozenTowers | OwnTowers) -> float:
    """Score a network on the selection split."""
    network.eval()
    backbone, images, judged = towers.view(network)
    method = job.method(
        judged, towers.words, trained_on=job.trained_on, own_towers=job.trunk is not None
    )
    texts = TextFeatures(backbone=backbone, truncate=False)
    return score_selection(
        method,
        job.selection,
        job.validation,
        images,
        texts,
        batch_size=_QUERIES_AT_ONCE if job.trunk else None,
        workers=job.workers,
    )
