"""Task `cirr`: real-life photos, and a sentence about the difference to the one looked for.

Liu et al., ICCV 2021; annotations rc2 of Cuberick-Orion/CIRR. The gallery is every image of the
split, also those that are never a reference; a query's own reference is removed from its ranking.
Besides recall over the gallery, Rs@k is recall among the five other members of the query's image
set. The usual headline average is mean(R@5, Rs@1).

The split `val` has its images in a folder `dev`. The split `test1` has no public labels: for it the
two files of the evaluation server are written, 50 names a query for recall and 3 members for subset
recall, and checked for what the server refuses.

Protocols: `pic2word` follows google-research/composed_image_retrieval, --eval-mode cirr, with the
reference really removed (its released code compares full paths with bare names, removes nothing and
stops); `clip4cir` is ABaldrati/CLIP4Cir with targetpad and the raw sum; `searle` and `lincir` add
the prompts of miccunifi/SEARLE and navervision/lincir, the latter with Hugging Face's
preprocessing, the references' pixels rounded to half precision, and its own prompt for Pic2Word
too; version 1 had neither of these two; `context-i2w` is that of Pter61/context-i2w: as `pic2word`,
with long texts cut and no subset recall. `soft` is how Cuberick-Orion/CIRPLANT and naver/artemis
report the val split: SR@k is the greatest grade, by the annotations' soft targets, among the first
k, so it is no R@k.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Download, Place, Task
from cirbench.benchmark.api.values import (
    ImageRef,
    MadeData,
    Query,
    Released,
    Selection,
    TaskData,
    Triplet,
)
from cirbench.benchmark.data.annotations import (
    check_none_missing,
    find_absent,
    find_row,
    find_with_any_ending,
    hash_files,
    number_names,
    read_rows,
    remark_oddities,
)
from cirbench.benchmark.data.layout import locate
from cirbench.benchmark.data.server_files import check_names
from cirbench.benchmark.images.reading import make_file_ref
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.parsing import read_json
from cirbench.benchmark.runtime.paths import check_inside, check_path

PIC2WORD = EvaluationProtocol(
    name="pic2word",
    version=1,
    gallery="every image of the split",
    reference_removed=True,
    preprocess="clip",
    templates={"text": "{caption}", "pseudo-word": "a photo of * , {caption}"},
    metrics=("R@1", "R@5", "R@10", "R@50", "R@100", "Rs@1", "Rs@2", "Rs@3", "(R@5+Rs@1)/2"),
    headline="R@1",
)
CLIP4CIR = replace(PIC2WORD, name="clip4cir", preprocess="targetpad", image_text_sum="raw")

SEARLE = replace(
    CLIP4CIR, name="searle", templates={**CLIP4CIR.templates, "that": "a photo of * that {caption}"}
)
LINCIR = replace(
    SEARLE,
    name="lincir",
    version=2,
    preprocess="clip-hf",
    reference_preprocess="clip-hf-float16",
    templates={**SEARLE.templates, "pseudo-word": SEARLE.templates["that"]},
)
CONTEXT_I2W = replace(
    PIC2WORD,
    name="context-i2w",
    metrics=("R@1", "R@5", "R@10", "R@50", "R@100"),
    overlong_text="truncate",
)
SOFT = replace(
    PIC2WORD,
    name="soft",
    preprocess="imagenet",
    metrics=(
        *("SR@1", "SR@2", "SR@5", "SR@10", "SR@50", "SR@100", "SRs@1", "SRs@2", "SRs@3"),
        "(SR@5+SRs@1)/2",
    ),
    headline="SR@1",
)

FOLDERS = {"val": "dev", "test1": "test1", "train": "train"}
"""Split → the folder of its images."""
ROOTS = ("cirr", "CIRR", "cirr_dataset")
PLACES = (
    Place(name="captions", candidates=tuple(f"{root}/captions" for root in ROOTS)),
    Place(name="splits", candidates=tuple(f"{root}/image_splits" for root in ROOTS)),
    *(
        Place(
            name=f"{split} images",
            candidates=tuple(
                f"{place}{folder}"
                for place in (*(f"{r}/img_raw/" for r in ROOTS), *(f"{r}/" for r in ROOTS), "")
            ),
            optional=True,
        )
        for split, folder in FOLDERS.items()
    ),
)


def read_split_images(path: Path, folder: Path) -> dict[str, Path]:
    """Image name → file, by the split's map of relative paths.

    Raises:
        CorruptData: the map is no map, or a path climbs out of the folder.
    """
    paths = read_json(path)
    if not isinstance(paths, dict) or not all(isinstance(value, str) for value in paths.values()):
        raise CorruptData(f"{path} must be an object of image names and their paths")
    return {
        check_path(name, str(path)): find_with_any_ending(
            folder / check_inside(relative, f"{path}, {name}")
        )
        for name, relative in paths.items()
    }


def find_image_folder(places: Mapping[str, Path | None], split: str) -> Path:
    """What the paths of a split's map are relative to.

    Raises:
        MissingData: the split's images are nowhere.
    """
    folder = places[f"{split} images"]
    if folder is None:
        raise MissingData(
            f"the folder of {split} images is missing; bench data where cirr shows where it may be"
        )
    return folder.parent


class CIRR(Task):
    """4,181 val queries against 2,297 images."""

    name: ClassVar[str] = "cirr"
    title: ClassVar[str] = "CIRR"
    splits: ClassVar[tuple[str, ...]] = ("val", "test1")
    default_backbone: ClassVar[str] = "ViT-L-14/openai"
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = {
        protocol.name: protocol
        for protocol in (PIC2WORD, CLIP4CIR, SEARLE, LINCIR, CONTEXT_I2W, SOFT)
    }
    places: ClassVar[Sequence[Place]] = PLACES
    released: ClassVar[Mapping[str, Released]] = {
        "val": Released(queries={"all": 4181}, gallery=dict.fromkeys(protocols, 2297)),
        "test1": Released(queries={"all": 4148}, gallery=dict.fromkeys(protocols, 2315)),
    }

    selection: ClassVar[Selection] = Selection(
        split="val",
        protocol=CLIP4CIR,
        metrics=("Rs@1", "Rs@2", "Rs@3", "R@1", "R@5", "R@10", "R@50"),
    )
    downloads: ClassVar[Sequence[Download]] = tuple(
        Download(
            url=f"https://raw.githubusercontent.com/Cuberick-Orion/CIRR/cirr_dataset/{path}",
            path=f"cirr/{path}",
        )
        for split in ("train", "val", "test1")
        for path in (f"captions/cap.rc2.{split}.json", f"image_splits/split.rc2.{split}.json")
    )
    how_to_get: ClassVar[str] = (
        "Annotations (fetched above): github.com/Cuberick-Orion/CIRR, branch cirr_dataset, see its "
        "licence. Images: those of NLVR2, on request from its authors (lil.nlp.cornell.edu/nlvr). "
        "Put the folders train, dev and test1 into DATA_ROOT/cirr/img_raw."
    )

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        places = locate(data_root, self.name, PLACES)
        captions, splits = (places[name] or Path() for name in ("captions", "splits"))
        images = find_image_folder(places, split)
        caption_file = captions / f"cap.rc2.{split}.json"
        split_file = splits / f"split.rc2.{split}.json"
        files = read_split_images(split_file, images)
        refs = {name: make_file_ref(path, name) for name, path in files.items()}
        gallery = tuple(refs.values())
        queries = read_queries(caption_file, refs, protocol, labelled=split != "test1")
        return TaskData(
            gallery=gallery,
            queries=tuple(queries),
            annotations=hash_files([caption_file, split_file]),
            labelled=split != "test1",
            missing=find_absent(files),
            remarks=tuple(remark_oddities(queries, gallery)),
        )

    def triplets(self, *, data_root: Path | None) -> Sequence[Triplet]:
        """(reference, target_hard, caption) of the train split."""
        places = locate(data_root, self.name, PLACES)
        captions, splits = (places[name] or Path() for name in ("captions", "splits"))
        caption_file = captions / "cap.rc2.train.json"
        files = read_split_images(
            splits / "split.rc2.train.json", find_image_folder(places, "train")
        )
        check_none_missing("training images", find_absent(files))
        refs = {name: make_file_ref(path, name) for name, path in files.items()}
        queries = read_queries(caption_file, refs, SOFT, labelled=True)
        gallery = list(refs.values())
        return [
            Triplet(
                reference=query.reference,
                target=gallery[query.positives[0]],
                captions=(query.fields["caption"],),
                fields=(query.fields,),
                equals=tuple(gallery[row] for row in find_equals(query)),
            )
            for query in queries
        ]

    def submission(self, data: TaskData, ranking: PerQuery) -> Mapping[str, str]:
        recall = {
            query.id: [data.gallery[row].id for row in rows[:RECALL_NAMES] if row >= 0]
            for query, rows in zip(data.queries, ranking.top.tolist(), strict=True)
        }
        subset = {
            query.id: [data.gallery[row].id for row in rows[:SUBSET_NAMES] if row >= 0]
            for query, rows in zip(data.queries, ranking.members.tolist(), strict=True)
        }
        names = [ref.id for ref in data.gallery]
        check_submission(recall, data, set(names), min(RECALL_NAMES, len(names) - 1))
        for query in data.queries:
            members = {names[row] for row in query.members}
            check_names(f"pair {query.id}", subset[query.id], members, SUBSET_NAMES)
        return {
            "recall.json": format_server_file("recall", recall),
            "recall_subset.json": format_server_file("recall_subset", subset),
        }

    def make(self, *, full: bool, seed: int) -> MadeData:
        from cirbench.datasets.made.cirr import make

        return make(FOLDERS, full=full, seed=seed)

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        raise MissingData("cirr has no unlabelled training images here")


RECALL_NAMES, SUBSET_NAMES = 50, 3
SERVER_BYTES = 5_000_000
"""The server's limit for one file."""


def check_submission(
    answers: Mapping[str, Sequence[str]], data: TaskData, gallery: Collection[str], count: int
) -> None:
    """Every pair id, the right number of names, all of the gallery, none twice, no reference.

    Raises:
        CorruptData: as `check_names`, or a pair id is missing, or a reference is answered.
    """
    for query in data.queries:
        names = answers.get(query.id, ())
        check_names(f"pair {query.id}", names, gallery, count)
        if query.reference.id in names:
            raise CorruptData(f"pair {query.id}: the answers must not contain its own reference")


def format_server_file(metric: str, answers: Mapping[str, Sequence[str]]) -> str:
    """One of the server's two files.

    Raises:
        CorruptData: it is larger than the server takes.
    """
    text = json.dumps({"version": "rc2", "metric": metric, **answers})
    if len(text.encode()) > SERVER_BYTES:
        raise CorruptData(
            f"the {metric} file must have at most 5 MB, as the server takes, got "
            f"{len(text):,} bytes"
        )
    return text


_FIELDS = {"pairid": int, "reference": str, "caption": str, "img_set": dict}


def read_queries(
    path: Path, refs: Mapping[str, ImageRef], protocol: EvaluationProtocol, *, labelled: bool
) -> list[Query]:
    """The queries of a caption file; unlabelled ones have no positives.

    Raises:
        CorruptData: a row lacks a field, repeats a pair id, or names an image not in the gallery.
    """
    rows = number_names(list(refs), path)
    queries = []
    seen: set[int] = set()
    fields = {**_FIELDS, "target_hard": str} if labelled else _FIELDS
    graded = labelled and protocol.name == SOFT.name
    for number, row in read_rows(path, fields):
        if row["pairid"] in seen:
            raise CorruptData(f"{path}, row {number}: pair id {row['pairid']} occurs twice")
        seen.add(row["pairid"])
        reference = find_row(rows, row["reference"], path, number)
        members = [find_row(rows, name, path, number) for name in _read_members(row, path, number)]
        queries.append(
            Query(
                id=str(row["pairid"]),
                reference=refs[row["reference"]],
                positives=(find_row(rows, row["target_hard"], path, number),) if labelled else (),
                fields={"caption": row["caption"]},
                removed=reference if protocol.reference_removed else None,
                members=tuple(member for member in members if member != reference),
                grades=read_grades(rows, row, path, number) if graded else {},
            )
        )
    return queries


def find_equals(query: Query) -> list[int]:
    """The rows of a query's image set, its target aside, that answer as well: their grade is 1."""
    return [
        row for row in query.members if query.grades.get(row) == 1 and row not in query.positives
    ]


def read_grades(
    rows: Mapping[str, int], row: Mapping[str, Any], path: Path, number: int
) -> dict[int, float]:
    """Gallery row → grade, of a row's soft targets: 1, 0.5, 0.2 or -1 in the released annotations.

    Raises:
        CorruptData: the row has none, one is not in the gallery, or a grade is no number.
    """
    soft = row.get("target_soft")
    if not isinstance(soft, dict):
        raise CorruptData(
            f"{path}, row {number}: `target_soft` must be an object of image names and grades, "
            f"got {soft!r:.40}"
        )
    for name, grade in soft.items():
        if isinstance(grade, bool) or not isinstance(grade, int | float) or not isfinite(grade):
            raise CorruptData(
                f"{path}, row {number}: the grade of {name} must be a number, got {grade!r:.40}"
            )
    return {find_row(rows, name, path, number): float(grade) for name, grade in soft.items()}


def _read_members(row: Mapping[str, Any], path: Path, number: int) -> Sequence[str]:
    members = row["img_set"].get("members")
    if not isinstance(members, list) or row.get("target_hard", row["reference"]) not in members:
        raise CorruptData(f"{path}, row {number}: the image set must hold the target")
    return members
