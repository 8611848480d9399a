"""CIRPLANT's recipe: `bench train cirplant`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from cirbench.methods.supervised.entry import SupervisedTraining
from cirbench.methods.supervised.recipe import SupervisedRecipe

_EPOCHS_TO_NOTHING = 158_700


@dataclass(frozen=True, kw_only=True)
class CirplantRecipe(SupervisedRecipe):
    """Cuberick-Orion/CIRPLANT's for CIRR, "without OSCAR".

    The released schedule falls to nothing over 158,700 steps, but is moved once an epoch: at the
    end of its 300 the rate is 0.998 of that at first.
    """

    largest_gradient: ClassVar[float | None] = 1.0
    learns_pictures: ClassVar[bool] = False

    learning_rate: float = 1e-5
    weight_decay: Annotated[float, "Of all but biases and layer norms."] = 0.05
    epochs: int = 300
    width: Annotated[int, "Of BERT's states, where none is named."] = 768
    augmentation: Annotated[str, "Pictures are always frozen features."] = "none"
    init: Annotated[str, "A BERT of the hub, or a folder; none: a new one."] = "bert-base-uncased"
    layers: Annotated[int, "Of a new BERT."] = 12
    heads: Annotated[int, "Of a new BERT."] = 12
    hidden: Annotated[int, "Feed-forward width of a new BERT."] = 3072
    dropout: float = 0.3
    attention_dropout: float = 0.1

    def count_epochs(self, steps_an_epoch: int) -> int:
        return self.epochs

    def find_rate(self, epoch: int, step: int) -> float:
        return 1 - epoch / _EPOCHS_TO_NOTHING

    def is_decayed(self, name: str) -> bool:
        return not name.endswith(("bias", "LayerNorm.weight"))


class CirplantTraining(SupervisedTraining):
    """Train CIRPLANT on a task's triplets, over frozen features.

    The defaults are those of its released code; on embedded tasks, of its model card. The epoch
    that is best on the selection split is kept; a log of losses and selection scores is written
    beside OUTPUT.
    """

    recipe = CirplantRecipe
    method = "cirplant"
    on_embedded: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-3,
        "batch_size": 256,
        "epochs": 30,
        "init": "",
        "width": 128,
        "layers": 2,
        "heads": 4,
        "hidden": 128,
        "dropout": 0.1,
    }
    selection: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "cirr": ("soft", ("SR@5", "SRs@1"))
    }
