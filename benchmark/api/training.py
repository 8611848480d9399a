"""How a method's own weights are made, as sweeps, the command line and plug-ins know it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from cirbench.benchmark.runtime.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """One training, as a person or a sweep asks for it.

    Attributes:
        source: what is trained on; see `Training.source`.
        backbone: its name.
        output: the file of weights that is written.
        recipe: fields of `Training.recipe`; those that are not named keep their defaults.
        checkpoint_every: steps between saved states, where states are saved within an epoch.

    Examples:
        >>> from pathlib import Path
        >>> import cirbench
        >>> weights = Path("mapper.safetensors")
        >>> cirbench.TrainingRequest(source="photos", backbone="fake", output=weights).precision
        'fp32'
    """

    source: str
    backbone: str
    output: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data_root: Path | None = None
    device: str = "auto"
    precision: str = "fp32"
    workers: int = 2
    checkpoint_every: int = 500


class Training(ABC):
    """The training of one method, registered under the method's name.

    Examples:
        >>> from dataclasses import dataclass
        >>> import cirbench
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Recipe:
        ...     epochs: int = 3
        ...     seed: int = 0
        >>> class MyTraining(cirbench.Training):
        ...     source = "images"
        ...     recipe = Recipe
        ...     def train(self, request, reporter, *, resume):
        ...         reporter.say(f"{Recipe(**request.recipe).epochs} epochs on {request.source}")
        >>> MyTraining().parallel
        False
    """

    source: ClassVar[Literal["images", "texts", "task"]]
    """What it is trained on: pictures (a folder, table, shards or a name that
    `images.sources.find_training_images` knows), texts (a file or a name that
    `training.texts.find_training_texts` knows), or the triplets of a task."""
    recipe: ClassVar[type[Any]]
    """A dataclass with a default for every field; one of them is `seed`."""
    parallel: ClassVar[bool] = False
    """Whether several processes share one training; else the first of a job trains alone."""

    def default_recipe(self, source: str) -> Any:
        """The recipe for what is trained on, where a person asks for no other numbers."""
        return self.recipe()

    def trains_backbone(self, backbone: str, recipe: Any) -> bool:
        """Whether the backbone learns as well: its weights are then a backbone, `trained:FILE`.

        Args:
            recipe: as `default_recipe` gives it, with what a person asks for put in.
        """
        return False

    @abstractmethod
    def train(self, request: TrainingRequest, reporter: Reporter, *, resume: bool) -> None:
        """Trains, and writes `request.output` whole.

        Args:
            resume: go on from a saved state where there is one; a sweep always does.

        Raises:
            UsageError: what was asked for can't be trained.
            MissingData, CorruptData: as the pictures or the task say.
            CheckFailed: the loss is not finite.
        """
