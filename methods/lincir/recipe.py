"""The numbers of a training of LinCIR: the paper's, and those for embedded tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cirbench.methods.lincir.captions import TAGGERS
from cirbench.methods.searle.recipe import PhiRecipe

NO_SELECTION = "none"


@dataclass(frozen=True, kw_only=True)
class LincirRecipe(PhiRecipe):
    """The paper's, as its released code has it."""

    steps: int = 20_000
    batch_size: int = 512
    keywords: Annotated[str, f"{' or '.join(TAGGERS)}: what becomes the pseudo-word."] = "spacy"
    select_on: Annotated[
        str, f"The task whose selection split keeps the best state; {NO_SELECTION}: the last."
    ] = "cirr"
    validate_every: Annotated[int, "Steps between selections and saved states."] = 1000


EMBEDDED = LincirRecipe(
    steps=300,
    batch_size=256,
    hidden=256,
    keywords="function-words",
    validate_every=25,
)
"""For a tiny CLIP; the state is selected on the task itself."""
