"""Which triplets a step of a supervised training sees, and what of them.

All that is drawn is a function of the seed, the epoch and the place in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import ImageRef, Triplet
from cirbench.methods.supervised.batch import Batch
from cirbench.methods.supervised.recipe import SupervisedRecipe
from cirbench.methods.supervised.towers import Texts

ReadPictures = Callable[[Sequence[Sequence[ImageRef]], int], Iterator[Tensor]]
"""The pictures of each of an epoch's steps, and the epoch → (P, …) tensors, a step at a time."""
ReadTexts = Callable[[Sequence[str]], Texts]


@dataclass(frozen=True)
class Example:
    """A triplet, and the wordings of which one is drawn when it is seen."""

    triplet: Triplet
    texts: Sequence[str]


def make_examples(
    triplets: Sequence[Triplet], protocol: EvaluationProtocol, family: str, *, every_order: bool
) -> list[Example]:
    """Word triplets as an evaluation words its queries.

    Args:
        every_order: whether each order of the captions is an example of its own.
    """
    examples = []
    for triplet in triplets:
        orders = [protocol.text(family, triplet.group, fields) for fields in triplet.fields]
        texts = orders or triplet.captions
        examples += [
            Example(triplet, part) for part in ([[t] for t in texts] if every_order else [texts])
        ]
    return examples


def choose_rows(
    examples: Sequence[Example], recipe: SupervisedRecipe, epoch: int
) -> list[NDArray[np.int64]]:
    """Choose the rows of each of an epoch's steps.

    `random` sees each example once but for an incomplete last batch; `category` draws a batch's
    group, each by its share of the examples, and then rows of it, with replacement.
    """
    rng = np.random.default_rng((recipe.seed, epoch))
    steps, size = count_steps(examples, recipe), min(recipe.batch_size, len(examples))
    if recipe.sampler == "random":
        return np.split(rng.permutation(len(examples))[: steps * size], steps)
    groups = np.array([example.triplet.group for example in examples])
    drawn = groups[rng.integers(len(examples), size=steps)]
    return [rng.choice(np.flatnonzero(groups == group), size) for group in drawn]


def count_steps(examples: Sequence[Example], recipe: SupervisedRecipe) -> int:
    """Count the steps of an epoch."""
    return len(examples) // min(recipe.batch_size, len(examples))


def make_batches(
    examples: Sequence[Example],
    recipe: SupervisedRecipe,
    epoch: int,
    read_pictures: ReadPictures,
    read_texts: ReadTexts,
) -> Iterator[Batch]:
    """Make the batches of an epoch."""
    steps = [[examples[row] for row in rows] for rows in choose_rows(examples, recipe, epoch)]
    for number, (chosen, pictures) in enumerate(
        zip(steps, read_pictures([_list_pictures(step) for step in steps], epoch), strict=True)
    ):
        rng = np.random.default_rng((recipe.seed, epoch, 0, number + 1))
        references, targets, equals = pictures.tensor_split((len(chosen), 2 * len(chosen)))
        yield Batch(
            references=references,
            texts=read_texts([e.texts[rng.integers(len(e.texts))] for e in chosen]),
            targets=targets,
            equals=equals,
            positives=_number_positives(chosen),
            rng=rng,
        )


def _list_pictures(step: Sequence[Example]) -> list[ImageRef]:
    triplets = [example.triplet for example in step]
    return [
        *(t.reference for t in triplets),
        *(t.target for t in triplets),
        *(ref for t in triplets for ref in t.equals),
    ]


def _number_positives(step: Sequence[Example]) -> list[list[int]]:
    """Of each triplet the rows of [queries; targets; equals] that answer it."""
    rows = count(2 * len(step))
    return [[len(step) + i, *islice(rows, len(e.triplet.equals))] for i, e in enumerate(step)]
