"""What a task teaches a tiny CLIP: pictures that it may see, and what is said of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cirbench.benchmark.api.values import ImageRef

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """A picture and a text that is true of it.

    Attributes:
        shows: attribute → value, all that a text may say of the picture.
        text: at most as many tokens as the recipe's context.
        said: what the text says; it is true as well of any picture that shows the same, which so
            is none of its negatives.
    """

    picture: ImageRef
    shows: Mapping[str, str]
    text: str
    said: Mapping[str, str]


class Lessons(ABC):
    """The lessons of one task; none shows a picture that the task holds out.

    Attributes:
        recipe: fields of `TinyClipRecipe` in which this task's recipe differs from its defaults.
    """

    recipe: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def draw_batches(self, rng: np.random.Generator) -> Iterator[Sequence[Lesson]]:
        """Endless batches, a function of the generator alone; each with hard negatives."""
