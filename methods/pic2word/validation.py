"""How well Pic2Word's mapping network does on pictures that its training leaves out."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.runtime.files import write_whole
from cirbench.methods.pic2word.method import MappingNetwork, contrastive_loss

_TEXTS_AT_ONCE = 256


class PictureSubset(Sequence[ImageRef]):
    """A subset of many pictures, which looks each up when it is asked for."""

    def __init__(self, refs: Sequence[ImageRef], rows: NDArray[np.int64]) -> None:
        self._refs, self._rows = refs, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row):  # type: ignore[no-untyped-def]  # as Sequence has it
        if isinstance(row, slice):
            return [self._refs[int(i)] for i in self._rows[row]]
        return self._refs[int(self._rows[row])]


def hold_out(
    refs: Sequence[ImageRef], share: float, seed: int
) -> tuple[Sequence[ImageRef], Sequence[ImageRef]]:
    """Split pictures into those to train on and a held-out share, drawn by the seed."""
    count = round(share * len(refs))
    if count == 0:
        return refs, ()
    order = np.random.default_rng((seed, len(refs))).permutation(len(refs))
    return PictureSubset(refs, np.sort(order[count:])), PictureSubset(refs, np.sort(order[:count]))


@dataclass(frozen=True, kw_only=True)
class Validation:
    """After so many steps: loss over all held-out pictures at once, and recall in percent.

    Attributes:
        recall_at_1: how often a picture's own sentence is nearest to it, among all.
    """

    step: int
    loss: float
    recall_at_1: float


@torch.no_grad()
def validate(
    mapper: MappingNetwork, backbone: Backbone, prompt: str, images: Tensor, step: int
) -> Validation:
    """Measure the network without dropout; it is left in the mode it was in."""
    training = mapper.training
    mapper.eval()
    parts = []
    for start in range(0, len(images), _TEXTS_AT_ONCE):
        part = images[start : start + _TEXTS_AT_ONCE].to(backbone.device)
        parts.append(backbone.encode_prompts([prompt] * len(part), mapper(part)).cpu())
    mapper.train(training)
    texts = torch.cat(parts)
    nearest = (normalize(images, dim=-1) @ normalize(texts, dim=-1).T).argmax(dim=1)
    right = (nearest == torch.arange(len(images))).float().mean()
    loss = contrastive_loss(images, texts, backbone.logit_scale)
    return Validation(step=step, loss=loss.item(), recall_at_1=100 * right.item())


def write_validations(path: Path, found: Sequence[Validation]) -> None:
    """Write validations as CSV, one a row."""
    with (
        write_whole(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        rows = csv.DictWriter(file, ("step", "loss", "recall_at_1"), lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(one) for one in found)


def read_validations(path: Path, steps: int) -> list[Validation]:
    """Read the validations of the steps already done; none where nothing was written."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        found = [
            Validation(
                step=int(row["step"]),
                loss=float(row["loss"]),
                recall_at_1=float(row["recall_at_1"]),
            )
            for row in csv.DictReader(file)
        ]
    return [one for one in found if one.step <= steps]


class Validator:
    """Validation every so many steps and at the end, and a log of it."""

    def __init__(
        self,
        *,
        images: Tensor,
        backbone: Backbone,
        prompt: str,
        path: Path,
        every: int,
        total: int,
        first_step: int,
    ) -> None:
        self.images, self.backbone, self.prompt = images, backbone, prompt
        self.path, self.every, self.total = path, every, total
        self.found = read_validations(path, first_step) if first_step else []

    def validate_if_due(self, steps: int, mapper: MappingNetwork) -> Validation | None:
        """Validate if it is due after so many steps."""
        due = steps % self.every == 0 or steps == self.total
        if not due or not len(self.images):
            return None
        self.found.append(validate(mapper, self.backbone, self.prompt, self.images, steps))
        write_validations(self.path, self.found)
        return self.found[-1]

    @property
    def last(self) -> dict[str, float] | None:
        """The last validation, for the weights' header."""
        return asdict(self.found[-1]) if self.found else None

    @property
    def points(self) -> list[tuple[int, float]]:
        """(step, loss), for the plot."""
        return [(one.step, one.loss) for one in self.found]
