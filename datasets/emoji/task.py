"""Task `emoji`: find the same emoji drawn in another style. Embedded, so it runs on a bare machine.

Domain conversion in kind like ImageNet-R's (Saito et al., CVPR 2023, section 4.1): the reference is
a 3D render, the modification is a style, and the gallery holds all target styles of the evaluation
concepts AND every 3D picture, the query's own among them, as distractors. Recall over the positives
is averaged over the styles.

No training here ever sees a picture of the gallery, nor any of the five core styles of a concept in
it: `pictures.EmojiPicture.held_out` is the rule, the model cards say what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cirbench.benchmark.api.lessons import Lessons
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import ImageRef, Query, Selection, TaskData, Triplet
from cirbench.datasets.emoji.captions import EmojiLessons
from cirbench.datasets.emoji.pictures import (
    CORE_STYLES,
    PACK,
    SOURCE_STYLE,
    TARGET_STYLES,
    read_pictures,
    read_training_pictures,
)

MAPPER_STYLES = CORE_STYLES
"""Unlabelled pictures for Pic2Word, of the training concepts alone."""

PROTOCOL = EvaluationProtocol(
    name="emoji",
    version=1,
    gallery="target styles of the split's concepts, then all its source pictures as distractors",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "{style}", "pseudo-word": "a {style} of *"},
    group_fields={
        "mono": {"style": "black and white icon"},
        "noto": {"style": "cartoon"},
        "twemoji": {"style": "twitter emoji"},
        "flat": {"style": "flat icon"},
    },
    metrics=("R@1", "R@5", "R@10", "R@50"),
    headline="R@10",
    averages={"average without flat": ("mono", "noto", "twemoji")},
)
"""Each wording is the one that was best for image-text on the val concepts, of two or three phrases
a style in four patterns. Flat shares the geometry of the source pictures, so the average without it
is the one to look at."""


class Emoji(Task):
    """600 test (150 val) concepts × 4 target styles."""

    name: ClassVar[str] = "emoji"
    follows: ClassVar[str] = "imagenet-r"
    splits: ClassVar[tuple[str, ...]] = ("test", "val")
    default_backbone: ClassVar[str] = "emoji-clip"
    shares_pictures_with: ClassVar[Sequence[str]] = ("kin",)
    credit: ClassVar[str] = (
        "Pictures: Fluent Emoji by Microsoft Corporation (MIT), Noto Emoji by Google Inc "
        "(Apache-2.0), Twemoji by Twitter, Inc and other contributors (CC BY 4.0, "
        "https://creativecommons.org/licenses/by/4.0/); resized, set on white. NOTICE and "
        "datasets/emoji/LICENSES.md of cirbench have the licences."
    )
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = {PROTOCOL.name: PROTOCOL}

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        chosen = [p for p in read_pictures() if p.split == split]
        sources = [p for p in chosen if p.style == SOURCE_STYLE]
        targets = [p for style in TARGET_STYLES for p in chosen if p.style == style]
        row = {(p.style, p.code): i for i, p in enumerate(targets)}
        queries = tuple(
            Query(
                id=f"{style}/{source.code}",
                reference=source.ref,
                positives=(row[style, source.code],),
                group=style,
                fields={"name": source.name},
            )
            for style in TARGET_STYLES
            for source in sources
        )
        return TaskData(
            gallery=tuple(p.ref for p in [*targets, *sources]),
            queries=queries,
            annotations=PACK.hash_table(),
        )

    selection: ClassVar[Selection] = Selection(split="val", protocol=PROTOCOL, metrics=("R@10",))

    def triplets(self, *, data_root: Path | None) -> Sequence[Triplet]:
        known = {(p.style, p.code): p for p in read_training_pictures(CORE_STYLES)}
        return [
            Triplet(
                reference=source.ref,
                target=known[style, source.code].ref,
                captions=(PROTOCOL.text("text", style, {}),),
                group=style,
                fields=({"name": source.name},),
            )
            for style in TARGET_STYLES
            for source in known.values()
            if source.style == SOURCE_STYLE and (style, source.code) in known
        ]

    def lessons(self, *, data_root: Path | None) -> Lessons:
        return EmojiLessons()

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        return [p.ref for p in read_training_pictures(MAPPER_STYLES)]
