"""TIRG's recipe: `bench train tirg`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from cirbench.methods.supervised.entry import SupervisedTraining
from cirbench.methods.supervised.recipe import Augmentation, SteppedRecipe, Steps


@dataclass(frozen=True, kw_only=True)
class TirgRecipe(SteppedRecipe):
    """google/tirg's, for Fashion200k and Fashion-IQ.

    The paper's CSS and MIT-States have loss="triplet", and on CSS the rate does not fall.
    """

    steps: Steps = 160_000
    augmentation: Augmentation = "none"
    fusion: Annotated[str, "vector, last-conv or concat."] = "vector"
    loss: Annotated[str, "cross-entropy over the batch, or triplet (soft)."] = "cross-entropy"


class TirgTraining(SupervisedTraining):
    """Train TIRG on a task's triplets.

    The defaults are those of its released code; on embedded tasks, of its model card. A trunk
    (torchvision:… or tiny) is trained along, any other backbone stays frozen. The epoch that is
    best on the selection split is kept; a log of losses and selection scores is written beside
    OUTPUT.
    """

    recipe = TirgRecipe
    method = "tirg"
    on_embedded: ClassVar[Mapping[str, Any]] = {"steps": 400, "batch_size": 256, "width": 128}
    selection: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "fashion-iq": ("maaf", ("R@10", "R@50"))
    }
