"""Task `coco`: object composition. A cut-out object and the names of what is around it.

Saito et al., CVPR 2023, section 4.2 and table 4; google-research/composed_image_retrieval,
--eval-mode coco. From each val2017 image one object is cut out by its mask; the query is its
picture and the names of all classes of the image (its own too), and the one positive is the whole
image among those of all N queries. 4,766 queries and images in the paper.

The query list, `coco_eval.csv`, was drawn at random and never released by the authors, so numbers
differ a little between lists; `bench data prepare coco` draws one with a seed (see `coco_queries`),
and the record holds its sha256. Two lists that others published hold other objects of the same
4,765 images; 4,766 is their number of lines with the header, and whether any list has as many rows
is not known here. Both counts are taken for released ones.

Protocol `context-i2w`, of Pter61/context-i2w, is the same with long texts cut.

A box narrower than a pixel gives a black query, as in the released code; the record's remarks count
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Place, Task
from cirbench.benchmark.api.values import ImageRef, MadeData, Query, Released, TaskData
from cirbench.benchmark.data.annotations import find_absent, hash_files
from cirbench.benchmark.data.layout import locate
from cirbench.benchmark.images.reading import make_file_ref
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.coco.query_list import ObjectQuery, read_queries

PROTOCOL = EvaluationProtocol(
    name="pic2word",
    version=1,
    gallery="the whole images of all queries",
    reference="the masked object's box, in whole pixels, stretched to the tower's square",
    reference_removed=False,
    preprocess="clip",
    templates={
        "text": "a photo of {query_class} and {others}",
        "pseudo-word": "a photo of * and {query_class} and {others}",
    },
    metrics=("R@1", "R@5", "R@10", "R@50", "R@100"),
    headline="R@1",
)
CONTEXT_I2W = replace(PROTOCOL, name="context-i2w", overlong_text="truncate")
PLACES = (
    Place(name="images", candidates=("coco/val2017", "COCO/val2017", "val2017")),
    Place(
        name="masked images",
        candidates=("coco/val2017_masked", "COCO/val2017_masked", "val2017_masked"),
    ),
    Place(
        name="query list", candidates=("coco/coco_eval.csv", "COCO/coco_eval.csv", "coco_eval.csv")
    ),
)


class Coco(Task):
    """One object of each val2017 image; N queries against the same N images."""

    name: ClassVar[str] = "coco"
    splits: ClassVar[tuple[str, ...]] = ("val2017",)
    default_backbone: ClassVar[str] = "ViT-L-14/openai"
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = {
        protocol.name: protocol for protocol in (PROTOCOL, CONTEXT_I2W)
    }
    places: ClassVar[Sequence[Place]] = PLACES
    released: ClassVar[Mapping[str, Released]] = {
        "val2017": Released(
            queries={"all": 4766},  # table 4's caption
            gallery=dict.fromkeys(protocols, 4766),
            others=(  # public lists
                Released(queries={"all": 4765}, gallery=dict.fromkeys(protocols, 4765)),
            ),
        )
    }
    how_to_get: ClassVar[str] = (
        "COCO 2017, https://cocodataset.org/#download: val2017.zip (images, under the terms of "
        "Flickr) and annotations_trainval2017.zip (annotations, CC BY 4.0). Unpack both, or put "
        "both as they are, into DATA_ROOT/coco; then run this command again: it writes the masked "
        "images and the query list."
    )

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        places = locate(data_root, self.name, PLACES)
        images, masked, table = (places[p.name] or Path() for p in PLACES)
        rows = read_queries(table)
        files = {row.image: images / row.image for row in rows}
        cut_out = {f"masked/{row.image}": masked / row.image for row in rows}
        return TaskData(
            gallery=tuple(make_file_ref(path, name) for name, path in files.items()),
            queries=tuple(_make_queries(rows, masked)),
            annotations=hash_files([table]),
            missing=find_absent({**files, **cut_out}),
            remarks=tuple(_describe_queries(rows)),
        )

    def prepare(self, *, data_root: Path, seed: int, reporter: Reporter) -> Sequence[str]:
        from cirbench.datasets.coco.prepare import prepare

        return prepare(data_root, seed=seed, reporter=reporter)

    def make(self, *, full: bool, seed: int) -> MadeData:
        from cirbench.datasets.made.coco import make

        return make(full=full, seed=seed)

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        raise MissingData("coco has no training images here; Pic2Word is trained on CC3M")


def _make_queries(rows: Sequence[ObjectQuery], masked: Path) -> Iterator[Query]:
    for number, row in enumerate(rows):
        reference = make_file_ref(masked / row.image, f"masked/{row.image}", box=row.box)
        fields = {"query_class": row.query_class, "others": " and ".join(row.others)}
        yield Query(id=row.image, reference=reference, positives=(number,), fields=fields)


def _describe_queries(rows: Sequence[ObjectQuery]) -> Iterator[str]:
    yield "the paper's query list was drawn at random and is not released"
    if black := [row.image for row in rows if row.is_black]:
        yield f"{len(black)} queries are black, their boxes have no whole pixel: {', '.join(black)}"
