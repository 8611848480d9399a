"""Task `circo`: COCO photos, a sentence about the change, and every photo that answers it.

Baldrati, Agnolucci, Bertini, Del Bimbo, ICCV 2023; annotations of miccunifi/CIRCO. The gallery is
every unlabeled image of COCO 2017, in the order of its list, for both splits; a query's reference
stays in it. AP@K divides by min(positives, K). `target R@K` is the recall of the one image that the
sentence was written for, and the groups beside `all` are the nine aspects that a sentence may have,
several at once; tables give their mAP@10, as the server does.

The split `test` has no public labels: for it the file of the evaluation server is written, 50 image
ids a query, and checked for what the server refuses and for what it fails to see.

Protocols: `searle` and `lincir` are how miccunifi/SEARLE and navervision/lincir ask, with the
sentence alone. Neither Pic2Word nor the single modalities have a prompt of their own here: Pic2Word
is asked as LinCIR asks it. `concept` puts what both images have in common before the sentence, as
MegaPairs does (BGE-VL), and in the words of google-deepmind/magiclens for methods that ask for
these: it says more, so its numbers are no continuation of the others'.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Download, Place, Task
from cirbench.benchmark.api.values import ImageRef, MadeData, Query, Released, TaskData
from cirbench.benchmark.data.annotations import (
    check_rows,
    find_absent,
    find_row,
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
from cirbench.benchmark.runtime.paths import check_inside

THAT = "a photo of * that {caption}"
SEARLE = EvaluationProtocol(
    name="searle",
    version=1,
    gallery="every unlabeled image of COCO 2017",
    reference_removed=False,
    preprocess="targetpad",
    templates={"text": "{caption}", "pseudo-word": THAT, "that": THAT},
    wording="caption",
    image_text_sum="raw",
    metrics=tuple(f"{kind}@{k}" for kind in ("mAP", "target R") for k in (5, 10, 25, 50)),
    headline="mAP@5",
    group_metric="mAP@10",
    averages={"average": ("all",)},
)
LINCIR = replace(
    SEARLE, name="lincir", preprocess="clip-hf", reference_preprocess="clip-hf-float16"
)
CONCEPT = replace(
    SEARLE,
    name="concept",
    preprocess="clip-hf",
    templates={
        "text": "Find a picture that also {shared_concept}, but {caption}.",
        "find-but": "find {shared_concept} but {caption}",
    },
    wording="shared concept and caption",
    overlong_text="truncate",
)
PROTOCOLS = {protocol.name: protocol for protocol in (SEARLE, LINCIR, CONCEPT)}

ROOTS = ("CIRCO", "circo")
_IMAGES = (*(f"{root}/COCO2017_unlabeled/" for root in ROOTS), "coco/", "COCO/", "")
PLACES = (
    Place(name="annotations", candidates=tuple(f"{root}/annotations" for root in ROOTS)),
    Place(
        name="image list",
        candidates=tuple(f"{place}annotations/image_info_unlabeled2017.json" for place in _IMAGES),
    ),
    Place(name="images", candidates=tuple(f"{place}unlabeled2017" for place in _IMAGES)),
)
LISTS = {
    "val": "6b31a1dbc3c85627501d9a250f87708f24a27d74d6a65360b6ddd2537a154d04",
    "test": "2f7c37e89220c990b6b0525d6f3ed63d3fc02e03ce336aa42a3b822841b14886",
}
"""Split → sha256 of its released annotations."""
ASPECTS = {
    "cardinality": 37,
    "addition": 80,
    "negation": 21,
    "direct_addressing": 119,
    "compare_change": 86,
    "comparative_statement": 50,
    "statement_with_conjunction": 164,
    "spatial_relations_background": 100,
    "viewpoint": 54,
}
"""What a sentence may be about → how many of the released val queries are."""


class Circo(Task):
    """220 val and 800 test queries against 123,403 images."""

    name: ClassVar[str] = "circo"
    title: ClassVar[str] = "CIRCO"
    splits: ClassVar[tuple[str, ...]] = ("val", "test")
    default_backbone: ClassVar[str] = "ViT-L-14/openai"
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = PROTOCOLS
    places: ClassVar[Sequence[Place]] = PLACES
    released: ClassVar[Mapping[str, Released]] = {
        split: Released(
            queries=queries,
            gallery=dict.fromkeys(PROTOCOLS, 123_403),
            files={f"{split}.json": LISTS[split]},
        )
        for split, queries in (("val", {"all": 220, **ASPECTS}), ("test", {"all": 800}))
    }
    downloads: ClassVar[Sequence[Download]] = (
        *(
            Download(
                url=f"https://raw.githubusercontent.com/miccunifi/CIRCO/main/annotations/{split}.json",
                path=f"CIRCO/annotations/{split}.json",
                checksum=f"sha256:{sha256}",
            )
            for split, sha256 in LISTS.items()
        ),
        Download(
            url="http://images.cocodataset.org/annotations/image_info_unlabeled2017.zip",
            path="CIRCO/COCO2017_unlabeled/image_info_unlabeled2017.zip",
            makes="CIRCO/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json",
        ),
    )
    how_to_get: ClassVar[str] = (
        "Annotations (fetched above): github.com/miccunifi/CIRCO, see its licence. Images and "
        "their list (fetched above): COCO 2017, https://cocodataset.org/#download, "
        "unlabeled2017.zip (19 GB, under the terms of Flickr); unpack it into "
        "DATA_ROOT/CIRCO/COCO2017_unlabeled, or have both in DATA_ROOT/coco."
    )

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        places = locate(data_root, self.name, PLACES)
        annotations, image_list, images = (places[p.name] or Path() for p in PLACES)
        queries_file = annotations / f"{split}.json"
        files = read_image_list(image_list, images)
        gallery = tuple(make_file_ref(path, name) for name, path in files.items())
        queries = read_queries(queries_file, gallery, labelled=split != "test")
        return TaskData(
            gallery=gallery,
            queries=tuple(queries),
            annotations=hash_files([queries_file, image_list]),
            labelled=split != "test",
            missing=find_absent(files),
            remarks=tuple(remark_oddities(queries, gallery)),
        )

    def submission(self, data: TaskData, ranking: PerQuery) -> Mapping[str, str]:
        names = [ref.id for ref in data.gallery]
        answers = {
            query.id: [names[row] for row in rows[:ANSWERS] if row >= 0]
            for query, rows in zip(data.queries, ranking.top.tolist(), strict=True)
        }
        return {"circo.json": format_server_file(answers, names, min(ANSWERS, len(names)))}

    def make(self, *, full: bool, seed: int) -> MadeData:
        from cirbench.datasets.made.circo import make

        return make(ASPECTS, full=full, seed=seed)

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        raise MissingData("circo has no training images here; its images are those it ranks")


ANSWERS = 50


def format_server_file(
    answers: Mapping[str, Sequence[str]], gallery: Collection[str], count: int = ANSWERS
) -> str:
    """The server's file: query id → image ids as numbers, best first.

    Raises:
        CorruptData: the query ids are not 0, 1, 2, …, or an answer has more or fewer than `count`
            images, one twice, or one that is not in the gallery.
    """
    if gap := sorted(set(map(str, range(len(answers)))) - set(answers)):
        raise CorruptData(
            f"the server's file must answer the queries 0 to {len(answers) - 1}, and {gap[0]} is "
            f"not answered"
        )
    known = set(gallery)
    for query, names in answers.items():
        check_names(f"query {query}", names, known, count)
    return json.dumps({query: list(map(int, names)) for query, names in answers.items()})


def read_image_list(path: Path, folder: Path) -> dict[str, Path]:
    """Image id → file, in the list's order.

    Raises:
        CorruptData: it is no COCO image list, an id occurs twice, or a name leaves the folder.
    """
    content = read_json(path)
    images = content.get("images") if isinstance(content, dict) else None
    rows = list(check_rows(images, {"id": int, "file_name": str}, f"{path}, images"))
    number_names([str(row["id"]) for _, row in rows], path)
    return {
        str(row["id"]): folder / check_inside(row["file_name"], f"{path}, images, row {number}")
        for number, row in rows
    }


_FIELDS = {"id": int, "reference_img_id": int, "relative_caption": str, "shared_concept": str}
_LABELS = {"target_img_id": int, "gt_img_ids": list, "semantic_aspects": list}


def read_queries(path: Path, gallery: Sequence[ImageRef], *, labelled: bool) -> list[Query]:
    """The queries of an annotation file; unlabelled ones have no positives.

    Raises:
        CorruptData: a row lacks a field, repeats an id, names an image that is not in the gallery,
            or contradicts itself.
    """
    rows = number_names([ref.id for ref in gallery], path)
    queries: dict[int, Query] = {}
    for number, row in read_rows(path, {**_FIELDS, **_LABELS} if labelled else _FIELDS):
        if row["id"] in queries:
            raise CorruptData(f"{path}, row {number}: query id {row['id']} occurs twice")
        labels = _read_labels(row, rows, path, number) if labelled else {"positives": ()}
        queries[row["id"]] = Query(
            id=str(row["id"]),
            reference=gallery[find_row(rows, str(row["reference_img_id"]), path, number)],
            fields={"caption": row["relative_caption"], "shared_concept": row["shared_concept"]},
            **labels,
        )
    return list(queries.values())


def _read_labels(
    row: Mapping[str, Any], rows: Mapping[str, int], path: Path, number: int
) -> dict[str, Any]:
    """Positives, target and aspects of a query."""
    positives = [find_row(rows, str(name), path, number) for name in row["gt_img_ids"]]
    target = find_row(rows, str(row["target_img_id"]), path, number)
    if target not in positives or len(set(positives)) < len(positives):
        raise CorruptData(
            f"{path}, row {number}: `gt_img_ids` must name `target_img_id`, and each image once"
        )
    known = list(ASPECTS)  # in a list anything can be looked for
    if unknown := [aspect for aspect in row["semantic_aspects"] if aspect not in known]:
        raise CorruptData(
            f"{path}, row {number}: a semantic aspect must be one of {', '.join(known)}, got "
            f"{unknown[0]!r:.40}"
        )
    aspects = tuple(dict.fromkeys(row["semantic_aspects"]))
    return {"positives": tuple(positives), "target": target, "aspects": aspects}
