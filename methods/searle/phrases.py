"""What SEARLE's training says of concepts: a language model's phrases, or templates without one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.files import check_is_file
from cirbench.benchmark.runtime.parsing import read_lines, read_table
from cirbench.benchmark.training.state import describe_lines

PLACEHOLDER = "$"
_PICTURES = (
    "photo",
    "picture",
    "image",
    "drawing",
    "sketch",
    "painting",
    "illustration",
    "rendering",
)
TEMPLATES = tuple(
    f"{'an' if what[0] in 'aeiou' else 'a'} {what} of {article}{PLACEHOLDER}"
    for what in _PICTURES
    for article in ("", "a ", "the ")
)
"""Ours. The paper's 24 are those of PALAVRA (Cohen et al., ECCV 2022); `templates` reads a file."""


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """Sentences about concepts, each with its concept in it as it is spelled.

    Attributes:
        by_concept: concept → its phrases.
        origin: what they were made with, for a header.
        left_out: how many concepts had a phrase without them.
    """

    by_concept: Mapping[str, Sequence[str]]
    origin: str
    left_out: int

    @property
    def concepts(self) -> list[str]:
        return list(self.by_concept)

    def describe(self) -> dict[str, Any]:
        """What a resume compares and a header keeps."""
        lines = (f"{concept}\t{said}" for concept, own in self.by_concept.items() for said in own)
        return {
            "origin": self.origin,
            "concepts": len(self.by_concept),
            "left_out": self.left_out,
            **describe_lines(lines),
        }

    def draw(self, concepts: Sequence[str], rng: np.random.Generator) -> list[str]:
        """A random phrase of each concept."""
        said = [self.by_concept[concept] for concept in concepts]
        return [own[int(rng.integers(len(own)))] for own in said]


def hide(phrase: str, concept: str, count: int = -1) -> str:
    """Put the placeholder in place of a phrase's concept, at its first `count` places or at all."""
    return " ".join(phrase.replace(concept, f" {PLACEHOLDER} ", count).split())


def read_templates(path: str) -> tuple[str, ...]:
    """Templates with one placeholder each, from a file with one a line; ours where none is named.

    Raises:
        MissingData: there is no such file.
        CorruptData: a line has not exactly one placeholder, or there is none.
    """
    if not path:
        return TEMPLATES
    lines = _read_filled_lines(path, "file of templates")
    for line in lines:
        if line.split().count(PLACEHOLDER) != 1:
            raise CorruptData(
                f"each line of {path} must have one {PLACEHOLDER} with spaces around it, got "
                f"{line!r}"
            )
    return tuple(lines)


def _read_filled_lines(path: str, what: str) -> list[str]:
    check_is_file(Path(path), what)
    lines = [line.strip() for line in read_lines(Path(path))]
    if not any(lines):
        raise CorruptData(f"{path} must have at least one line, got none")
    return list(filter(None, lines))


def find_phrases(
    *, phrases: str, concepts: str, templates: Sequence[str], titles: Iterable[str]
) -> Phrases:
    """Find concepts and what is said of them.

    A concept is left out as soon as one of its phrases lacks it as it is spelled.

    Args:
        phrases: a .tsv or .csv file with columns `concept` and `phrase`, as a language model
            continued "a photo of {concept} that"; empty: the templates with the concept in them.
        concepts: a file with one a line, where there are no phrases; empty: the titles.
        titles: what the pictures are called, if they are.

    Raises:
        UsageError: both files are named, or there are no concepts.
        MissingData, CorruptData: as the files say.
    """
    if phrases and concepts:
        raise UsageError("phrases and concepts must not both be given: phrases name their concepts")
    if phrases:
        found = _read_phrases(Path(phrases))
        origin = f"phrases of {Path(phrases).name}"
    else:
        names = _read_filled_lines(concepts, "file of concepts") if concepts else titles
        found = {
            name: [template.replace(PLACEHOLDER, name) for template in templates]
            for name in filter(None, names)
        }
        of = Path(concepts).name if concepts else "the images' titles"
        origin = f"templates with {of}: no language model was asked"
    if not found:
        raise UsageError(
            "textual inversion needs concepts: --phrases FILE.tsv with columns concept and phrase, "
            "or --concepts FILE with one a line"
        )
    kept = {
        concept: own for concept, own in found.items() if all(concept in phrase for phrase in own)
    }
    if not kept:
        raise CorruptData(f"each concept of {phrases} has a phrase without it; spell it as it is")
    return Phrases(by_concept=kept, origin=origin, left_out=len(found) - len(kept))


def _read_phrases(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for number, row in enumerate(read_table(path, ["concept", "phrase"]), start=1):
        concept, phrase = row["concept"].strip(), row["phrase"].strip()
        if not concept or not phrase:
            raise CorruptData(f"{path}, row {number} must have a concept and a phrase, got {row}")
        found.setdefault(concept, []).append(phrase)
    return found
