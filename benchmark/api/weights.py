"""Weights that a method's authors, or others, published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, kw_only=True)
class ReleasedWeights:
    """A published file of weights, as a row of `methods/weights/released.csv`.

    Attributes:
        backbones: the names, or patterns of names, of the one CLIP that they were trained over.
        hub: the repository of Hugging Face's hub that has the file; empty where none has.
        url: where anybody may fetch it otherwise; empty where only a person can, on `page`.
        size: in bytes; None where it is not known.
        sha256: empty where it is not known; then the first file that is used counts.
        shapes: of some of its weights, by which it is told from the method's other files.
        caveat: what a reader of its numbers should know.
    """

    method: str
    backbones: tuple[str, ...]
    file: str
    hub: str
    url: str
    page: str
    size: int | None
    sha256: str
    shapes: Mapping[str, tuple[int, ...]]
    licence: str
    trained_on: str
    caveat: str

    def __str__(self) -> str:
        return f"released {self.file}"

    def is_for(self, backbone: str) -> bool:
        """Whether it was trained over the backbone of that name."""
        return any(fnmatchcase(backbone, pattern) for pattern in self.backbones)
