"""Task `garments`: a photographed garment, and what its colour or its kind is to be instead.

3,781 photographs that people took of clothes (github.com/alexeygrigorev/clothing-dataset-small,
CC0 1.0), sorted by people into ten kinds; the colour is named by a rule (`colours.py`), and one
that is not sure is not asked for. Every photograph of the wanted kind and colour is right, and what
counts is whether one of them is found.

The photographs are fetched, and none is part of the project, which holds a table of them. They are
split one by one, so that a garment that was photographed twice may be on both sides; no training
photograph is within `NEAR` of a held-out one, the measure of the embedded tasks.

Protocols, which differ in what is said to the text tower of text-only and image-text:

pic2word  the prompt with its literal star, as Pic2Word's released evaluation of Fashion-IQ has it.
clip4cir  the plain sentence, as the Combiner's has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cirbench.benchmark.api.lessons import Lessons
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Download, Place, Task
from cirbench.benchmark.api.values import (
    Collection,
    ImageRef,
    Query,
    Released,
    Selection,
    TaskData,
    Triplet,
)
from cirbench.benchmark.runtime.files import sha256_of_file
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.garments.captions import PREPROCESS, GarmentLessons
from cirbench.datasets.garments.changes import draw_changes
from cirbench.datasets.garments.photographs import (
    CHECKSUMS,
    COMMIT,
    FETCHED,
    PLACES,
    REPOSITORY,
    TABLE,
    find_changed,
    find_missing,
    find_training_refs,
    locate_photographs,
    make_refs,
    read_photographs,
    read_split,
    write_checksums,
)

QUERIES = {"test": 500, "val": 200}
"""Of each group."""
FEWEST_RIGHT = 2
"""Answers that a query has, at least."""
TRIPLETS = 2000
"""Of each group."""
SEEDS = {"test": 2, "val": 3, "train": 4}
"""Of the queries, or the triplets, that are drawn from a split."""

NO_CHECKSUMS = (
    "these photographs were not fetched by bench data prepare garments, and nothing says whether "
    "one of them was changed"
)

PIC2WORD = EvaluationProtocol(
    name="pic2word",
    version=1,
    gallery="the split's photographs whose colour is sure",
    reference_removed=True,
    preprocess=PREPROCESS,
    templates={
        "text": "a photo of * , {caption}",
        "pseudo-word": "a photo of * , {caption}",
        "caption": "{caption}",
    },
    metrics=("HR@1", "HR@5", "HR@10", "HR@50"),
    headline="HR@10",
)
"""The first, since image-text finds more with it on val than with `CLIP4CIR`'s text."""
CLIP4CIR = replace(
    PIC2WORD,
    name="clip4cir",
    templates={"text": "{caption}", "pseudo-word": PIC2WORD.templates["pseudo-word"]},
)


class Garments(Task):
    """1,000 test (400 val) queries, half of them about colours, half about kinds."""

    name: ClassVar[str] = "garments"
    splits: ClassVar[tuple[str, ...]] = ("test", "val")
    default_backbone: ClassVar[str] = "ViT-L-14/openai"
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = {
        p.name: p for p in (PIC2WORD, CLIP4CIR)
    }
    places: ClassVar[Sequence[Place]] = PLACES
    released: ClassVar[Mapping[str, Released]] = {
        "test": Released(
            queries={"colour": 500, "kind": 500},
            gallery=dict.fromkeys(protocols, 900),
            annotations_sha256="da89ae7aa94ab9b0bdc21bbb1a71024e59f2405623b78657113c9c99c607cdac",
        ),
        "val": Released(
            queries={"colour": 200, "kind": 200},
            gallery=dict.fromkeys(protocols, 314),
            annotations_sha256="293b26748b237d4cbbaaebdb21526f391ebecc1bc1b4637c7fc7ebe93982f7c0",
        ),
    }
    downloads: ClassVar[Sequence[Download]] = (
        Download(
            url=f"https://github.com/{REPOSITORY}/archive/{COMMIT}.zip",
            path=f"{FETCHED}.zip",
            checksum=f"git-commit:{COMMIT}",
            makes=FETCHED,
        ),
    )
    how_to_get: ClassVar[str] = (
        f"Photographs (fetched above, 106 MB, CC0 1.0): github.com/{REPOSITORY} at commit "
        f"{COMMIT}. A checkout of it may lie at DATA_ROOT/clothing-dataset-small instead."
    )

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        folder = locate_photographs(data_root)
        shown = [p for p in read_split(split) if p.is_sure]
        gallery = make_refs(folder, shown)
        changes = draw_changes(
            shown, of_each_group=QUERIES[split], fewest_right=FEWEST_RIGHT, seed=SEEDS[split]
        )
        queries = tuple(
            Query(
                id=f"{change.group}/{change.wanted}/{shown[change.reference].path}",
                reference=gallery[change.reference],
                positives=change.right,
                group=change.group,
                fields={"caption": change.wordings[number % len(change.wordings)]},
                removed=change.reference,
            )
            for number, change in enumerate(changes)
        )
        return TaskData(
            gallery=gallery,
            queries=queries,
            annotations={TABLE.name: sha256_of_file(TABLE), "queries": hash_queries(queries)},
            missing=find_missing(folder, shown),
            remarks=() if (folder / CHECKSUMS).is_file() else (NO_CHECKSUMS,),
        )

    def collections(self, *, data_root: Path | None) -> Sequence[Collection]:
        folder, photographs = locate_photographs(data_root), read_photographs()
        missing = find_missing(folder, photographs)
        return [
            Collection(
                name="photographs of all splits",
                found=len(photographs) - len(missing),
                missing=tuple(missing),
                expected=len(photographs),
                changed=find_changed(folder, photographs),
            )
        ]

    def prepare(self, *, data_root: Path, seed: int, reporter: Reporter) -> Sequence[str]:
        """Write down what each photograph is when it has just been fetched."""
        folder = data_root / FETCHED
        if not folder.is_dir() or (folder / CHECKSUMS).exists():
            return ()
        write_checksums(folder)
        return (f"{folder / CHECKSUMS}: the photographs as they are now, for bench data check",)

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        return find_training_refs(data_root, read_split("train"))

    selection: ClassVar[Selection] = Selection(split="val", protocol=CLIP4CIR, metrics=("HR@10",))

    def triplets(self, *, data_root: Path | None) -> Sequence[Triplet]:
        shown = [p for p in read_split("train") if p.is_sure]
        refs = find_training_refs(data_root, shown)
        changes = draw_changes(shown, of_each_group=TRIPLETS, fewest_right=1, seed=SEEDS["train"])
        return [
            Triplet(
                reference=refs[change.reference],
                target=refs[change.right[number % len(change.right)]],
                captions=change.wordings,
                group=change.group,
                fields=tuple({"caption": wording} for wording in change.wordings),
            )
            for number, change in enumerate(changes)
        ]

    def lessons(self, *, data_root: Path | None) -> Lessons:
        chosen = read_split("train")
        return GarmentLessons(chosen, find_training_refs(data_root, chosen))


def hash_queries(queries: Sequence[Query]) -> str:
    """Hash what was drawn, beside the table that it was drawn from."""
    lines = (f"{query.id} {query.fields['caption']}\n" for query in queries)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
