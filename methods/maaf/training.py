"""MAAF's recipe: `bench train maaf`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from cirbench.methods.supervised.entry import SupervisedTraining
from cirbench.methods.supervised.recipe import Augmentation, SteppedRecipe, Steps, Width


@dataclass(frozen=True, kw_only=True)
class MaafRecipe(SteppedRecipe):
    """yahoo/maaf's of 2020, for Fashion-IQ.

    Batches are meant to be of one category; a slip in the released sampler lets only every second
    one be, which is left out. Triplets of a category are drawn with replacement.
    """

    trunk_parts: ClassVar[tuple[str, ...]] = ("trunk.", "projections.")

    steps: Steps = 150_000
    width: Width = 128
    sampler: Annotated[str, "category or random: what a batch is drawn from."] = "category"
    augmentation: Augmentation = "maaf"
    blocks: Annotated[int, "Of the transformer."] = 2
    heads: int = 8
    hidden: Annotated[int, "Of a block's feed-forward network."] = 128


class MaafTraining(SupervisedTraining):
    """Train MAAF on a task's triplets.

    The defaults are those of its released code; on embedded tasks, of its model card. A trunk
    (torchvision:… or tiny) is trained along, any other backbone stays frozen. The epoch that is
    best on the selection split is kept; a log of losses and selection scores is written beside
    OUTPUT.
    """

    recipe = MaafRecipe
    method = "maaf"
    on_embedded: ClassVar[Mapping[str, Any]] = {
        "steps": 400,
        "batch_size": 256,
        "sampler": "random",
    }
    selection: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "fashion-iq": ("maaf", ("R@10", "R@50"))
    }
