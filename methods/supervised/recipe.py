"""How the supervised systems are trained, as data: nothing here imports torch.

What each does at a step is its network's `compute_loss`; the loop is `supervised.training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

from cirbench.benchmark.runtime.errors import UsageError

SAMPLERS = ("random", "category")
# Fields that several recipes have with a default of their own, each with its option's help.
Augmentation = Annotated[str, "How pictures are changed where a trunk is trained along."]
FirstRate = Annotated[float, "Learning rate at first."]
Steps = Annotated[int, "Rounded up to whole epochs."]
TrunkRate = Annotated[float, "The learning rate of a trunk, as a share of the others'."]
Width = Annotated[int, "Of the space in which queries meet the gallery."]


@dataclass(frozen=True, kw_only=True)
class SupervisedRecipe:
    """What all of them have; a subclass gives its paper's numbers as defaults.

    Attributes:
        optimizer: "sgd" has momentum 0.9.
        trunk_parts: beginnings of names of weights that learn at `trunk_rate`, where a trunk is
            trained along.
        largest_gradient: to which norm a step's gradient is cut; None leaves it.
        least: what a whole number must at least be, where that is not 1.
        every_order: whether each order of the captions is a triplet of its own in an epoch, rather
            than one of them drawn at each step.
        learns_pictures: whether a trunk can be trained along at all.
    """

    optimizer: ClassVar[Literal["sgd", "adamw"]] = "adamw"
    trunk_parts: ClassVar[tuple[str, ...]] = ("trunk.",)
    largest_gradient: ClassVar[float | None] = None
    least: ClassVar[Mapping[str, int]] = {"batch_size": 2, "seed": 0}
    every_order: ClassVar[bool] = False
    learns_pictures: ClassVar[bool] = True

    learning_rate: FirstRate
    weight_decay: float
    batch_size: int = 32
    width: Width = 512
    sampler: Annotated[str, f"{' or '.join(SAMPLERS)}: what a batch is drawn from."] = "random"
    augmentation: Augmentation
    trunk_rate: TrunkRate = 1.0
    frozen: Annotated[bool, "Keep a trunk's weights; train over its features alone."] = False
    seed: Annotated[int, "Of everything random."] = 0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UsageError(f"sampler must be {' or '.join(SAMPLERS)}, got {self.sampler!r}")
        if not self.learning_rate > 0:
            raise UsageError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not self.trunk_rate >= 0:
            raise UsageError(f"trunk_rate must be at least 0, got {self.trunk_rate}")
        for field in fields(self):
            value, least = getattr(self, field.name), self.least.get(field.name, 1)
            if type(value) is int and value < least:
                raise UsageError(f"{field.name} must be at least {least}, got {value}")

    def describe(self) -> dict[str, Any]:
        """What a resume compares and the weights' header keeps: files by their content."""
        return asdict(self)

    @property
    def trains_trunk(self) -> bool:
        """Whether a trunk is trained along, where there is one."""
        return self.learns_pictures and not self.frozen

    def count_epochs(self, steps_an_epoch: int) -> int:
        """How often the triplets are gone through."""
        raise NotImplementedError

    def find_rate(self, epoch: int, step: int) -> float:
        """What the learning rate is multiplied by in an epoch and a step of all, from 0."""
        return 1.0

    def list_frozen(self, epoch: int) -> tuple[str, ...]:
        """Beginnings of names of weights that do not learn in an epoch."""
        return ()

    def is_decayed(self, name: str) -> bool:
        """Whether a weight of that name decays."""
        return True


@dataclass(frozen=True, kw_only=True)
class SteppedRecipe(SupervisedRecipe):
    """TIRG's and MAAF's: SGD for a number of steps, the rate falling to a tenth on the way."""

    optimizer: ClassVar[Literal["sgd", "adamw"]] = "sgd"

    learning_rate: FirstRate = 0.01
    weight_decay: float = 1e-6
    trunk_rate: TrunkRate = 0.1
    steps: Steps
    drop_every: Annotated[int, "Steps after which the rate falls to a tenth."] = 50_000

    def count_epochs(self, steps_an_epoch: int) -> int:
        return max(1, -(-self.steps // steps_an_epoch))

    def find_rate(self, epoch: int, step: int) -> float:
        return float(0.1 ** (step // self.drop_every))
