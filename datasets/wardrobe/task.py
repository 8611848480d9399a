"""Task `wardrobe`: a person, and two sentences that say how the one looked for differs. Embedded.

Attribute change in kind like Fashion-IQ's (Saito et al., CVPR 2023, section 4.1; Wu et al., CVPR
2021): three drawing styles are its categories, each with a gallery of its own, and a query's
reference stays in the gallery. There are no fashion photographs in it. A family is a person and
seven variations; reference and target are of one family and differ in two to four attributes, all
of which the sentences name. So the picture alone finds the family, the text alone all whom it fits,
and only one is both.

Protocols, which differ in the text of plain text encoders alone:

pic2word  as fashion-iq's: the SECOND sentence first, and the literal star in the text-only row.
clip4cir  the sentences alone, joined by "and", as clip4cir joins them.

No training here ever sees a family of the galleries: `pictures.WardrobePicture.held_out` is the
rule, the model cards say what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cirbench.benchmark.api.lessons import Lessons
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import ImageRef, Query, Selection, TaskData, Triplet
from cirbench.datasets.wardrobe.captions import WardrobeLessons
from cirbench.datasets.wardrobe.people import STYLES
from cirbench.datasets.wardrobe.pictures import (
    hash_tables,
    read_pictures,
    read_training_pictures,
    read_triplets,
)

SENTENCES = "{first} and {second}"

PIC2WORD = EvaluationProtocol(
    name="pic2word",
    version=1,
    gallery="all pictures of the split in the style",
    reference_removed=False,
    preprocess="clip",
    templates={
        "text": "a photo of * , {second} and {first}",
        "pseudo-word": "a photo of * , {second} and {first}",
        "caption": SENTENCES,
    },
    metrics=("R@1", "R@5", "R@10", "R@50"),
    headline="R@10",
)
CLIP4CIR = replace(
    PIC2WORD,
    name="clip4cir",
    templates={"text": SENTENCES, "pseudo-word": PIC2WORD.templates["pseudo-word"]},
)


def make_fields(sentences: tuple[str, str]) -> Mapping[str, str]:
    """What the templates speak of."""
    first, second = sentences
    return {"first": first, "second": second}


class Wardrobe(Task):
    """720 test (300 val) queries in three drawing styles, each against 480 (200) pictures."""

    name: ClassVar[str] = "wardrobe"
    follows: ClassVar[str] = "fashion-iq"
    splits: ClassVar[tuple[str, ...]] = ("test", "val")
    default_backbone: ClassVar[str] = "wardrobe-clip"
    credit: ClassVar[str] = (
        "Pictures: ToonHead by Johan Melin, https://www.johanmelin.com, and Personas by Draftbit, "
        "https://personas.draftbit.com, both CC BY 4.0, "
        "https://creativecommons.org/licenses/by/4.0/; Big Heads by Robert Broersma (MIT); "
        "composed anew, cropped, resized, set on white. NOTICE and datasets/wardrobe/LICENSES.md "
        "of cirbench have the licences."
    )
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = {
        protocol.name: protocol for protocol in (PIC2WORD, CLIP4CIR)
    }
    selection: ClassVar[Selection] = Selection(split="val", protocol=CLIP4CIR, metrics=("R@10",))

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        gallery = [
            p for style in STYLES for p in read_pictures() if (p.style, p.split) == (style, split)
        ]
        row = {p.id: i for i, p in enumerate(gallery)}
        styles = [p.style for p in gallery]
        queries = tuple(
            Query(
                id=triplet.reference.id,
                reference=triplet.reference.ref,
                positives=(row[triplet.target.id],),
                group=triplet.target.style,
                fields=make_fields(triplet.sentences),
            )
            for triplet in read_triplets(split)
        )
        return TaskData(
            gallery=tuple(p.ref for p in gallery),
            queries=queries,
            annotations=hash_tables(),
            spans={s: range(styles.index(s), styles.index(s) + styles.count(s)) for s in STYLES},
        )

    def triplets(self, *, data_root: Path | None) -> Sequence[Triplet]:
        return [
            Triplet(
                reference=triplet.reference.ref,
                target=triplet.target.ref,
                captions=tuple(SENTENCES.format(**fields) for fields in orders),
                group=triplet.target.style,
                fields=orders,
            )
            for triplet in read_triplets("train")
            for orders in [
                (make_fields(triplet.sentences), make_fields(triplet.sentences[::-1])),
            ]
        ]

    def lessons(self, *, data_root: Path | None) -> Lessons:
        return WardrobeLessons()

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        return [p.ref for p in read_training_pictures()]
