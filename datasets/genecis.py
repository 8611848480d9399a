"""Task `genecis`: a photo, and a word for what is to stay or to change about it.

Vaze, Carion, Misra, CVPR 2023; annotations v0 of facebookresearch/genecis. Four sub-tasks are the
groups, and the headline is the plain mean of their R@1: focus or change, an attribute (of an object
of Visual Genome, looked at with what is around it) or an object (of a whole photo of COCO's
val2017). Each query ranks candidates of its own, 10 or 15 in the released files; its reference is
none of them. The authors put the noise of their annotations at 0.2 points of the average.

The released evaluation puts the target first and sorts unstably, so that a scorer which gives all
candidates one score may find every target. Here the target stands last, a tie counts against it,
and the record counts the queries that a tie decided. Where a target is listed among its own
distractors, the two tie.

Protocols: `genecis` is the released evaluation, the bare word as text; methods with a pseudo-word,
which it does not have, get the prompt of the others. `lincir` is the branch eval_genecis of
navervision/lincir, with the word in the prompt. In that branch the two object tasks lose their
word and ask for "that 0", the last element of a batch; whether published numbers were so computed
is not known. `lincir-as-released` has this defect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Download, Place, Task
from cirbench.benchmark.api.values import (
    Collection,
    ImageRef,
    MadeData,
    Query,
    Released,
    Surroundings,
    TaskData,
)
from cirbench.benchmark.data.annotations import (
    check_rows,
    find_absent,
    find_with_any_ending,
    hash_files,
    read_rows,
    remark_oddities,
)
from cirbench.benchmark.data.layout import locate
from cirbench.benchmark.images.decoding import MOST_PIXELS
from cirbench.benchmark.images.leftovers import list_folder
from cirbench.benchmark.images.reading import make_file_ref
from cirbench.benchmark.runtime.errors import CorruptData, MissingData

THAT = "a photo of * that {condition}"
GENECIS = EvaluationProtocol(
    name="genecis",
    version=1,
    gallery="each query's own candidates",
    reference="attributes: an object and what is around it, on a black square; else whole picture",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "{condition}", "pseudo-word": THAT, "that": THAT},
    image_text_sum="raw",
    overlong_text="truncate",
    metrics=("R@1", "R@2", "R@3"),
    headline="R@1",
)
LINCIR = replace(GENECIS, name="lincir", preprocess="clip-hf")
ATTRIBUTES = ("focus_attribute", "change_attribute")
OBJECTS = ("focus_object", "change_object")
GROUPS = (*ATTRIBUTES, *OBJECTS)
_AS_RELEASED = "a photo of * that {condition_of_attribute}"
AS_RELEASED = replace(
    LINCIR,
    name="lincir-as-released",
    templates={**LINCIR.templates, "pseudo-word": _AS_RELEASED, "that": _AS_RELEASED},
    group_fields={group: {"condition_of_attribute": "0"} for group in OBJECTS},
)
PROTOCOLS = {protocol.name: protocol for protocol in (GENECIS, LINCIR, AS_RELEASED)}

ROOTS = ("genecis/", "GeneCIS/", "")
GENOME = Place(
    name="Visual Genome images",
    candidates=tuple(
        f"{root}{folder}"
        for root in ("visual_genome/", "VG/", "Visual_Genome/", *ROOTS)
        for folder in ("VG_100K_all", "VG_All", "VG_100K", "VG_100K_2")
    ),
)
"""Two archives make two folders; a picture is taken from whichever has it."""
VAL2017 = Place(
    name="val2017 images",
    candidates=tuple(f"{root}val2017" for root in (*ROOTS[:2], "coco/", "COCO/", "")),
)
PLACES = (
    *(Place(name=g, candidates=tuple(f"{root}{g}.json" for root in ROOTS)) for g in GROUPS),
    GENOME,
    VAL2017,
)
LISTS = {
    "focus_attribute.json": None,
    "change_attribute.json": None,
    "focus_object.json": "ee6de86ffb78ad989986b65f7e74e5627a90c1395a8cdc4aed8da3d92f4c016c",
    "change_object.json": "0a5145984f7d8594c457a3609288ae2acfcdb6b72bd0309220e616300c9beac8",
}
"""Released file → sha256, where it is known."""


class GeneCIS(Task):
    """Four sub-tasks, about 2,000 queries each, 10 or 15 candidates a query."""

    name: ClassVar[str] = "genecis"
    title: ClassVar[str] = "GeneCIS"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    default_backbone: ClassVar[str] = "ViT-L-14/openai"
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = PROTOCOLS
    places: ClassVar[Sequence[Place]] = PLACES
    released: ClassVar[Mapping[str, Released]] = {
        "test": Released(
            queries=dict.fromkeys(OBJECTS, 1_960),
            files={name: sha256 for name, sha256 in LISTS.items() if sha256},
        )
    }
    downloads: ClassVar[Sequence[Download]] = tuple(
        Download(
            url=f"https://raw.githubusercontent.com/facebookresearch/genecis/main/genecis/{name}",
            path=f"genecis/{name}",
            checksum=sha256 and f"sha256:{sha256}",
        )
        for name, sha256 in LISTS.items()
    )
    how_to_get: ClassVar[str] = (
        "Annotations (fetched above): github.com/facebookresearch/genecis, see its licence. "
        "Images: both archives of Visual Genome 1.2 (visualgenome.org, CC BY 4.0), unpacked into "
        "DATA_ROOT/visual_genome as VG_100K and VG_100K_2, or together as VG_100K_all; and COCO's "
        "val2017.zip (https://cocodataset.org/#download, under the terms of Flickr), unpacked into "
        "DATA_ROOT/coco."
    )

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        places = locate(data_root, self.name, PLACES)
        photos = Photos(genome=find_genome(data_root), val2017=places[VAL2017.name] or Path())
        gallery = Gallery()
        files = {group: places[group] or Path() for group in GROUPS}
        queries = [
            query
            for group, path in files.items()
            for query in read_queries(group, path, photos, gallery)
        ]
        oddities = remark_oddities(queries, gallery.refs)
        return TaskData(
            gallery=tuple(gallery.refs),
            queries=tuple(queries),
            annotations=hash_files(list(files.values())),
            missing=find_absent(photos.files),
            remarks=(*oddities, *describe_candidates(queries, gallery.refs)),
        )

    def collections(self, *, data_root: Path | None) -> Sequence[Collection]:
        places = locate(data_root, self.name, PLACES)
        folders = {
            "Visual Genome's images": (find_genome(data_root), 108_249),
            "val2017's images": ([places[VAL2017.name] or Path()], 5_000),
        }
        return [
            Collection(name=name, found=len(_list_jpegs(own)), missing=(), expected=expected)
            for name, (own, expected) in folders.items()
        ]

    def make(self, *, full: bool, seed: int) -> MadeData:
        from cirbench.datasets.made.genecis import make

        return make(full=full, seed=seed)

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        raise MissingData("genecis has no training images here; its images are those it ranks")


def find_genome(root: Path | None) -> list[Path]:
    """The folders that hold Visual Genome's pictures."""
    return [root / name for name in GENOME.candidates if (root / name).is_dir()] if root else []


def _list_jpegs(folders: Sequence[Path]) -> set[str]:
    return {path.name for own in folders for path in list_folder(own) if path.suffix == ".jpg"}


@dataclass(frozen=True, kw_only=True)
class Photos:
    """The pictures of both data sets, by what a template says of them.

    Attributes:
        genome: the folders that have Visual Genome's.
        val2017: the one that has COCO's.
        files: the files of those that were asked for, by the name of the picture.
    """

    genome: Sequence[Path]
    val2017: Path
    files: dict[str, Path] = field(default_factory=dict)

    def find(self, group: str, images: Sequence[Any], origin: str) -> list[ImageRef]:
        """The pictures that a template of a group lists.

        Raises:
            CorruptData: it lists none, or one lacks a field, or has a box that is none.
        """
        if group in OBJECTS:
            rows = check_rows(images, {"val_image_id": int}, origin)
            return [self._find_whole(image) for _, image in rows]
        rows = check_rows(images, {"image_id": int, "instance_bbox": list}, origin)
        return [self._find_object(image, f"{origin}, row {number}") for number, image in rows]

    def _find_whole(self, image: Mapping[str, Any]) -> ImageRef:
        file = f"{image['val_image_id']:012}.jpg"
        return self._make(f"val2017/{file}", [self.val2017 / file])

    def _find_object(self, image: Mapping[str, Any], origin: str) -> ImageRef:
        box, file = read_box(image["instance_bbox"], origin), f"{image['image_id']}.jpg"
        sides = ",".join(repr(side).removesuffix(".0") for side in astuple(box))
        return self._make(f"genome/{file}@{sides}", [own / file for own in self.genome], box)

    def _make(
        self, name: str, candidates: Sequence[Path], box: Surroundings | None = None
    ) -> ImageRef:
        if name not in self.files:
            there = (path for path in candidates if path.is_file())
            self.files[name] = next(there, None) or find_with_any_ending(candidates[0])
        return make_file_ref(self.files[name], name, box)


def read_box(values: Sequence[object], origin: str) -> Surroundings:
    """An object's box, x, y, width and height.

    Raises:
        CorruptData: it is no such four numbers, or has no area.
    """
    numbers = [
        float(v)
        for v in values
        if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < MOST_PIXELS
    ]
    if len(values) != 4 or len(numbers) != 4 or min(numbers[2:]) <= 0:
        raise CorruptData(
            f"{origin}: `instance_bbox` must be x, y, width and height of an area in pixels, got "
            f"{values!r:.60}"
        )
    return Surroundings(*numbers)


@dataclass(frozen=True)
class Gallery:
    """The candidates of all queries, each picture once."""

    refs: list[ImageRef] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    def add(self, ref: ImageRef) -> int:
        """The picture's row, a new one if it is new."""
        if ref.id not in self.rows:
            self.rows[ref.id] = self.repeat(ref)
        return self.rows[ref.id]

    def repeat(self, ref: ImageRef) -> int:
        """A row of its own for a picture that is there already."""
        self.refs.append(ref)
        return len(self.refs) - 1


def read_queries(group: str, path: Path, photos: Photos, gallery: Gallery) -> Iterator[Query]:
    """The queries of one sub-task, each with its candidates, of which the target is the last.

    Raises:
        CorruptData: a template lacks a field, has no distractor, or has a box that is none.
    """
    fields = {"condition": str, "gallery": list, "reference": dict, "target": dict}
    for number, row in read_rows(path, fields):
        origin = f"{path}, row {number}"
        [reference] = photos.find(group, [row["reference"]], f"{origin}, reference")
        [target] = photos.find(group, [row["target"]], f"{origin}, target")
        distractors = photos.find(group, row["gallery"], f"{origin}, gallery")
        others = [gallery.add(ref) for ref in distractors]
        among = target.id in {ref.id for ref in distractors}
        own = gallery.repeat(target) if among else gallery.add(target)
        condition = {"condition": row["condition"]}
        of_attribute = {"condition_of_attribute": row["condition"]} if group in ATTRIBUTES else {}
        yield Query(
            id=f"{group}/{number}",
            reference=reference,
            positives=(own,),
            group=group,
            fields={**condition, **of_attribute},
            candidates=(*others, own),
        )


def describe_candidates(queries: Sequence[Query], gallery: Sequence[ImageRef]) -> Iterator[str]:
    """How many candidates the queries have, which decides what chance finds; and odd ones."""
    said = []
    for group in GROUPS:
        counts = [len(query.candidates) for query in queries if query.group == group]
        fewer = sum(count < max(counts) for count in counts)
        said.append(f"{group} {max(counts)}" + (f" ({fewer:,} queries fewer)" if fewer else ""))
    yield f"candidates a query: {', '.join(said)}"
    doubled = [
        query.id
        for query in queries
        if gallery[query.candidates[-1]].id in {gallery[row].id for row in query.candidates[:-1]}
    ]
    if doubled:
        yield (
            f"{len(doubled):,} queries have their target among the distractors, too, so that both "
            f"tie: {', '.join(doubled[:5])}"
        )
