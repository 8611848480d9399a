"""The numbers of a training of SEARLE: the paper's, and those for embedded tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

from cirbench.benchmark.runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class PhiRecipe:
    """What all trainings of SEARLE's network have, LinCIR's too; the rate is constant.

    Attributes:
        least: what a whole number must at least be, where that is not 1.
        above_zero: fractions that must not be 0.
    """

    least: ClassVar[Mapping[str, int]] = {"seed": 0}
    above_zero: ClassVar[tuple[str, ...]] = ("learning_rate",)

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    hidden: Annotated[int | None, "Hidden width; default: 4 × the embedding's."] = None
    seed: Annotated[int, "Of everything random."] = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if type(value) is int and value < self.least.get(name, 1):
                raise UsageError(f"{name} must be at least {self.least.get(name, 1)}, got {value}")
            if name in self.above_zero and not 0 < value < math.inf:
                raise UsageError(f"{name} must be above 0, got {value}")
            if type(value) is float and not 0 <= value < math.inf:
                raise UsageError(f"{name} must be at least 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class SearleRecipe(PhiRecipe):
    """The paper's two stages, as its released code has them.

    Attributes:
        ema: how much of the moving average of a picture's word stays at each step.
    """

    least: ClassVar[Mapping[str, int]] = {"seed": 0, "batch_size": 2}
    above_zero: ClassVar[tuple[str, ...]] = ("learning_rate", "inversion_rate", "temperature")

    inversion_steps: Annotated[int, "Of textual inversion, for each image."] = 350
    inversion_batch: Annotated[int, "Images that are inverted at a time."] = 32
    inversion_rate: Annotated[float, "Learning rate of the images' words."] = 2e-2
    inversion_concepts: Annotated[int, "Nearest concepts of which inversion hears."] = 15
    inversion_phrase_weight: Annotated[float, "Of the phrases' loss, beside the image's 1."] = 0.5
    ema: Annotated[float, "What stays of a word's moving average at each step."] = 0.99
    epochs: Annotated[int, "Of the network."] = 100
    batch_size: int = 256
    near_concepts: Annotated[int, "Nearest concepts of which the network hears."] = 150
    phrase_weight: Annotated[float, "Of the phrases' loss, beside distillation's 1."] = 0.75
    temperature: Annotated[float, "Of distillation's softmax."] = 0.25
    phrases: Annotated[str, "A .tsv or .csv with columns concept and phrase."] = ""
    concepts: Annotated[str, "Where there are no phrases, a file of concepts, one a line."] = ""
    templates: Annotated[str, "A file with one a line, a $ for the word; default: ours."] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema >= 1:
            raise UsageError(f"ema must be below 1, got {self.ema}")


EMBEDDED = SearleRecipe(
    inversion_steps=20,
    inversion_batch=128,
    ema=0.8,
    epochs=6,
    learning_rate=1e-3,
    hidden=256,
)
"""For a tiny CLIP."""
