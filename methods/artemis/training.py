"""ARTEMIS's recipe: `bench train artemis`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from cirbench.benchmark.runtime.files import check_is_file, sha256_of_file
from cirbench.methods.supervised.entry import SupervisedTraining
from cirbench.methods.supervised.recipe import Augmentation, FirstRate, SupervisedRecipe


@dataclass(frozen=True, kw_only=True)
class ArtemisRecipe(SupervisedRecipe):
    """naver/artemis's: two stages in one training.

    In the first, trunk and word vectors do not learn (a frozen trunk's batch norms still follow
    the pictures), and the rate is halved half-way; the second goes on from its last state with all
    weights, at the rate that is left, which is halved every ten epochs.
    """

    least: ClassVar[Mapping[str, int]] = {**SupervisedRecipe.least, "first_epochs": 0}
    every_order: ClassVar[bool] = True

    learning_rate: FirstRate = 5e-4
    weight_decay: float = 0.01
    first_epochs: Annotated[int, "Of the first stage."] = 8
    epochs: Annotated[int, "Of the second stage."] = 50
    halve_every: Annotated[int, "Epochs of the second stage after which the rate is halved."] = 10
    augmentation: Augmentation = "artemis"
    text_tower: Annotated[str, "bigru or lstm, over words."] = "bigru"
    word_width: Annotated[int, "Of the word vectors."] = 300
    word_vectors: Annotated[str, "A text file of GloVe's, with `word_width` numbers a word."] = ""

    def describe(self) -> dict[str, Any]:
        described = super().describe()
        if self.word_vectors:
            path = Path(self.word_vectors)
            check_is_file(path, "file of word vectors")
            described["word_vectors"] = {"file": path.name, "sha256": sha256_of_file(path)}
        return described

    def count_epochs(self, steps_an_epoch: int) -> int:
        return self.first_epochs + self.epochs

    def find_rate(self, epoch: int, step: int) -> float:
        if epoch < self.first_epochs:
            return 0.5 ** int(2 * epoch >= self.first_epochs)
        left = 0.5 ** int(self.first_epochs > 1)
        return float(left * 0.5 ** ((epoch - self.first_epochs) // self.halve_every))

    def list_frozen(self, epoch: int) -> tuple[str, ...]:
        return ("trunk.", "text.embedding.") if epoch < self.first_epochs else ()


class ArtemisTraining(SupervisedTraining):
    """Train ARTEMIS on a task's triplets, in its two stages.

    The defaults are those of its released code; on embedded tasks, of its model card. A trunk
    (torchvision:… or tiny) is trained along, any other backbone stays frozen. The epoch that is
    best on the selection split is kept; a log of losses and selection scores is written beside
    OUTPUT.
    """

    recipe = ArtemisRecipe
    method = "artemis"
    on_embedded: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 2e-3,
        "weight_decay": 0.05,
        "batch_size": 256,
        "width": 128,
        "word_width": 64,
        "first_epochs": 4,
        "epochs": 32,
    }
    selection: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "fashion-iq": ("artemis", ("R@10", "R@50")),
        "cirr": ("soft", ("SR@5", "SRs@1")),
    }
