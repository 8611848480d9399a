"""The numbers of a training of LinCIR: the paper's, and those for `emoji`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated

from cirbench.benchmark.runtime.errors import UsageError
from cirbench.methods.lincir.captions import TAGGERS

NO_SELECTION = "none"


@dataclass(frozen=True, kw_only=True)
class LincirRecipe:
    """The paper's, as its released code has it; the rate is constant."""

    steps: int = 20_000
    batch_size: int = 512
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    hidden: Annotated[int | None, "Hidden width; default: 4 × the embedding's."] = None
    keywords: Annotated[str, f"{' or '.join(TAGGERS)}: what becomes the pseudo-word."] = "spacy"
    select_on: Annotated[
        str, f"The task whose selection split keeps the best state; {NO_SELECTION}: the last."
    ] = "cirr"
    validate_every: Annotated[int, "Steps between selections and saved states."] = 1000
    seed: Annotated[int, "Of everything random."] = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "seed" else 1
            if type(value) is int and value < least:
                raise UsageError(f"{field.name} must be at least {least}, got {value}")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay must be at least 0, got {self.weight_decay}")


EMOJI = LincirRecipe(
    steps=300,
    batch_size=256,
    hidden=384,
    keywords="function-words",
    select_on="emoji",
    validate_every=25,
)
