"""Task `kin`: people at work and play, and a sentence about the difference to the one looked for.

Open-domain change in kind like CIRR's (Liu et al., ICCV 2021; protocol as in Saito et al., CVPR
2023, section 4.3): a person in an activity, a gender, a skin tone and a drawing style; the sentence
names one or two changes, the style stays. The gallery holds every picture of the split's activities
in two styles; the reference is taken out of its own ranking. Rs@k is recall among the other five of
an image set of six, four of which differ from reference or target in one thing.

No training here ever sees a picture of the gallery: `pictures.KinPicture.held_out` is the rule, the
model card says what was seen. The yellow people are pictures of the task `emoji` too, which splits
them otherwise, so neither task's CLIP is run on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cirbench.benchmark.api.lessons import Lessons
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import ImageRef, Query, Selection, TaskData, Triplet
from cirbench.benchmark.runtime.files import sha256_of_file
from cirbench.datasets.kin.captions import KinLessons
from cirbench.datasets.kin.pictures import (
    PACK,
    read_gallery,
    read_pictures,
    read_training_pictures,
)
from cirbench.datasets.kin.queries import TABLE, find_known, read_queries

PROTOCOL = EvaluationProtocol(
    name="pic2word",
    version=1,
    gallery="every picture of the split's activities in the styles noto and twemoji",
    reference_removed=True,
    preprocess="clip",
    templates={"text": "{caption}", "pseudo-word": "a photo of * , {caption}"},
    metrics=("R@1", "R@5", "R@10", "R@50", "R@100", "Rs@1", "Rs@2", "Rs@3", "(R@5+Rs@1)/2"),
    headline="R@5",
)
QUERIES = PACK.folder / TABLE


class Kin(Task):
    """800 test (400 val) queries against 768 (328) pictures of 32 (14) activities."""

    name: ClassVar[str] = "kin"
    follows: ClassVar[str] = "cirr"
    splits: ClassVar[tuple[str, ...]] = ("test", "val")
    default_backbone: ClassVar[str] = "kin-clip"
    shares_pictures_with: ClassVar[Sequence[str]] = ("emoji",)
    credit: ClassVar[str] = (
        "Pictures: Fluent Emoji by Microsoft Corporation (MIT), Noto Emoji by Google Inc "
        "(Apache-2.0), Twemoji by Twitter, Inc and other contributors (CC BY 4.0, "
        "https://creativecommons.org/licenses/by/4.0/); resized, set on white. NOTICE and "
        "datasets/kin/LICENSES.md of cirbench have the licences."
    )
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = {PROTOCOL.name: PROTOCOL}
    selection: ClassVar[Selection] = Selection(
        split="val", protocol=PROTOCOL, metrics=("R@5", "Rs@1")
    )

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        gallery = read_gallery(split)
        row = {(p.style, p.code): i for i, p in enumerate(gallery)}
        queries = []
        for number, query in enumerate(read_queries(QUERIES)):
            if query.split == split:
                codes = (query.reference, query.target, *query.others)
                reference, *members = (find_known(row, query.style, code) for code in codes)
                queries.append(
                    Query(
                        id=str(number),
                        reference=gallery[reference].ref,
                        positives=(members[0],),
                        fields={"caption": query.caption},
                        removed=reference,
                        members=tuple(members),
                    )
                )
        return TaskData(
            gallery=tuple(p.ref for p in gallery),
            queries=tuple(queries),
            annotations={**PACK.hash_table(), QUERIES.name: sha256_of_file(QUERIES)},
        )

    def triplets(self, *, data_root: Path | None) -> Sequence[Triplet]:
        known = {(p.style, p.code): p.ref for p in read_pictures() if p.split == "train"}
        return [
            Triplet(
                reference=find_known(known, query.style, query.reference),
                target=find_known(known, query.style, query.target),
                captions=(query.caption,),
                fields=({"caption": query.caption},),
            )
            for query in read_queries(QUERIES)
            if query.split == "train"
        ]

    def lessons(self, *, data_root: Path | None) -> Lessons:
        return KinLessons()

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        """Hints included: on training activities alone a mapping network does not carry over."""
        return [p.ref for p in read_training_pictures()]
