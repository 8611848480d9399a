"""Task `fashion-iq`: a garment, and two sentences that say how the one looked for differs.

Wu et al., CVPR 2021; splits and captions of XiaoxiaoGuo/fashion-iq. The val split is reported, as
everybody does (its test labels are not used), and the same split usually selects the checkpoint.
Three categories, each with a gallery of its own; the plain mean over them is the average. A query's
own reference stays in the gallery, but for the last three protocols, whose numbers that raises.

Protocols:

pic2word  the paper's released evaluation (google-research/composed_image_retrieval, --eval-mode
          fashion): the whole split as gallery, the SECOND caption first, nothing stripped, and the
          literal star in the text-only row.
clip4cir  ABaldrati/CLIP4Cir: targetpad, "C1 and c2" of stripped captions, image+text as the
          normalised sum of the raw features.
searle    miccunifi/SEARLE: as clip4cir, with both orders of the captions for pseudo-words.
lincir    navervision/lincir: as searle, with Hugging Face's preprocessing, the references' pixels
          rounded to half precision, and its own prompts for Pic2Word too (version 1 had neither
          of these two).
context-i2w  Pter61/context-i2w: as pic2word, with its marker (CLIP's token "jekyll") in place of
          the star in the text-only row, and long texts cut.
val       as pic2word, with the smaller gallery of VAL and CoSMo: images that occur in triplets.
maaf      the 2020 code of yahoo/maaf: the whole split without the reference, and the captions, as
          they are, joined by a marker word.
artemis   naver/artemis: as maaf, with white squares, and each pair of captions asked in both
          orders, as two queries.
cosmo     postBG/CosMo.pytorch: as artemis, with ImageNet's preprocessing and captions joined by
          "and". The paper's higher numbers have the gallery of val.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
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
    Selection,
    TaskData,
    Triplet,
)
from cirbench.benchmark.data.annotations import (
    check_none_missing,
    find_absent,
    find_image_files,
    find_row,
    hash_files,
    number_names,
    read_names,
    read_rows,
    remark_oddities,
)
from cirbench.benchmark.data.layout import locate
from cirbench.benchmark.images.reading import make_file_ref
from cirbench.benchmark.runtime.errors import CorruptData, MissingData

CATEGORIES = ("dress", "shirt", "toptee")
WHOLE_SPLIT = "the whole split of the category"
TRIPLETS = "references and targets of the category's triplets"
ALL_IMAGES = 74_381
"""Of all categories and splits. The often quoted 77,683 counts images of two categories twice."""
STRIPPED = ".?, "
"""What CLIP4Cir takes off both ends of a caption."""

CLIP4CIR_TEXT = "{first_capitalised} and {second_stripped}"

PIC2WORD = EvaluationProtocol(
    name="pic2word",
    version=1,
    gallery=WHOLE_SPLIT,
    reference_removed=False,
    preprocess="clip",
    templates={
        "text": "a photo of * , {second} and {first}",
        "pseudo-word": "a photo of * , {second} and {first}",
        "caption": CLIP4CIR_TEXT,
    },
    metrics=("R@1", "R@5", "R@10", "R@50", "R@100", "(R@10+R@50)/2"),
    headline="R@10",
)
CLIP4CIR = replace(
    PIC2WORD,
    name="clip4cir",
    preprocess="targetpad",
    templates={
        "text": CLIP4CIR_TEXT,
        "pseudo-word": "a photo of * , {second} and {first}",
    },
    image_text_sum="raw",
)
SEARLE = replace(
    CLIP4CIR,
    name="searle",
    templates={
        **CLIP4CIR.templates,
        "that": "a photo of * that {first_stripped} and {second_stripped}",
        "that-reversed": "a photo of * that {second_stripped} and {first_stripped}",
    },
)
LINCIR = replace(
    SEARLE,
    name="lincir",
    version=2,
    preprocess="clip-hf",
    reference_preprocess="clip-hf-float16",
    templates={
        **SEARLE.templates,
        "pseudo-word": SEARLE.templates["that"],
        "pseudo-word-reversed": SEARLE.templates["that-reversed"],
    },
)
CONTEXT_I2W = replace(
    PIC2WORD,
    name="context-i2w",
    templates={**PIC2WORD.templates, "text": "a photo of jekyll , {second} and {first}"},
    overlong_text="truncate",
)
VAL = replace(PIC2WORD, name="val", gallery=TRIPLETS)
MAAF = replace(
    PIC2WORD,
    name="maaf",
    reference_removed=True,
    preprocess="imagenet",
    templates={
        **CLIP4CIR.templates,
        "inadditiontothat": "{first} inadditiontothat {second}",
        "and-token": "{first} <and> {second}",
    },
)
ARTEMIS = replace(MAAF, name="artemis", preprocess="white-square", caption_orders="both")
COSMO = replace(
    ARTEMIS,
    name="cosmo",
    preprocess="imagenet",
    templates={**MAAF.templates, "text": "{first} and {second}"},
)

ROW_FIELDS = {"candidate": str, "target": str, "captions": list}
ROOTS = ("fashion-iq", "fashionIQ_dataset", "FashionIQ", "fashioniq", "fashion_iq")


def _make_candidates(*folders: str) -> tuple[str, ...]:
    return tuple(f"{root}/{folder}" for root in ROOTS for folder in folders)


PLACES = (
    Place(name="captions", candidates=_make_candidates("captions", "json")),
    Place(name="splits", candidates=_make_candidates("image_splits")),
    Place(name="images", candidates=_make_candidates("images", "resized_images")),
)


def make_wordings(captions: Sequence[str]) -> tuple[str, ...]:
    """The four of CLIP4Cir's training: both orders, and each caption alone."""
    first, second = (caption.strip(STRIPPED) for caption in captions)
    return (
        f"{first.capitalize()} and {second}",
        f"{second.capitalize()} and {first}",
        first.capitalize(),
        second.capitalize(),
    )


def _list_downloads() -> tuple[Download, ...]:
    lines = (
        (files("cirbench.datasets") / "fashion_iq.sha256").read_text(encoding="utf-8").splitlines()
    )
    return tuple(
        Download(
            url=f"https://raw.githubusercontent.com/XiaoxiaoGuo/fashion-iq/master/{path}",
            path=f"fashion-iq/{path}",
            checksum=f"sha256:{sha256}",
        )
        for sha256, path in map(str.split, lines)
    )


def read_gallery_names(
    split: Path, triplets: Sequence[tuple[int, Mapping[str, Any]]], protocol: EvaluationProtocol
) -> list[str]:
    """The names of a category's gallery, in the order of its split file."""
    names = read_names(split)
    number_names(names, split)
    if protocol.gallery == WHOLE_SPLIT:
        return names
    used = {row[role] for _, row in triplets for role in ("candidate", "target")}
    return [name for name in names if name in used]


def make_caption_fields(captions: Sequence[str]) -> dict[str, str]:
    """What the templates speak of."""
    first, second = captions
    return {
        "first": first,
        "second": second,
        "first_capitalised": first.strip(STRIPPED).capitalize(),
        "first_stripped": first.strip(STRIPPED),
        "second_stripped": second.strip(STRIPPED),
    }


class FashionIQ(Task):
    """6,016 val queries of three categories, against 3,817, 6,346 and 5,373 images."""

    name: ClassVar[str] = "fashion-iq"
    title: ClassVar[str] = "Fashion-IQ"
    splits: ClassVar[tuple[str, ...]] = ("val",)
    default_backbone: ClassVar[str] = "ViT-L-14/openai"
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = {
        protocol.name: protocol
        for protocol in (
            *(PIC2WORD, CLIP4CIR, VAL, SEARLE, LINCIR, CONTEXT_I2W),
            *(MAAF, ARTEMIS, COSMO),
        )
    }
    places: ClassVar[Sequence[Place]] = PLACES
    released: ClassVar[Mapping[str, Released]] = {
        "val": Released(
            queries={"dress": 2017, "shirt": 2038, "toptee": 1961},
            gallery={**dict.fromkeys(protocols, 15_536), "val": 8_619},
            annotations_sha256="c1d04759fef3b58ef199d21ba0e8d357410828e921e393c806328f2fd87bb91d",
        )
    }

    selection: ClassVar[Selection] = Selection(
        split="val", protocol=CLIP4CIR, metrics=("R@10", "R@50")
    )
    downloads: ClassVar[Sequence[Download]] = _list_downloads()
    how_to_get: ClassVar[str] = (
        "Annotations (fetched above): github.com/XiaoxiaoGuo/fashion-iq, see its licence. Images: "
        "74,381 product photos of Amazon, whose addresses are in github.com/hongwang600/"
        "fashion-iq-metadata; many are dead, and mirrors are named in XiaoxiaoGuo/fashion-iq#18. "
        "Put them as ASIN.jpg or ASIN.png into DATA_ROOT/fashion-iq/images."
    )

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        places = locate(data_root, self.name, PLACES)
        captions, splits, images = (places[p.name] or Path() for p in PLACES)
        gallery: list[str] = []
        queries: list[tuple[str, dict[str, Any]]] = []
        spans: dict[str, range] = {}
        annotations: dict[str, str] = {}
        for category in CATEGORIES:
            caption_file = captions / f"cap.{category}.{split}.json"
            split_file = splits / f"split.{category}.{split}.json"
            names, found = read_category(caption_file, split_file, protocol, category, len(gallery))
            spans[category] = range(len(gallery), len(gallery) + len(names))
            gallery += names
            queries += found
            annotations |= hash_files([caption_file, split_file])
        paths = find_image_files(images, list(dict.fromkeys(gallery)), splits)
        refs = {name: make_file_ref(path, name) for name, path in paths.items()}
        pictures = tuple(refs[name] for name in gallery)
        asked = tuple(Query(reference=refs[name], **fields) for name, fields in queries)
        return TaskData(
            gallery=pictures,
            queries=asked,
            annotations=annotations,
            spans=spans,
            missing=find_absent(paths),
            remarks=tuple(remark_oddities(asked, pictures)),
        )

    def collections(self, *, data_root: Path | None) -> Sequence[Collection]:
        places = locate(data_root, self.name, PLACES)
        splits, images = places["splits"] or Path(), places["images"] or Path()
        names: dict[str, None] = {}
        for path in sorted(splits.glob("split.*.json")):
            names |= dict.fromkeys(read_names(path))
        missing = tuple(find_absent(find_image_files(images, list(names), splits)))
        return [
            Collection(
                name="distinct images of all nine split files",
                found=len(names) - len(missing),
                missing=missing,
                expected=ALL_IMAGES,
            )
        ]

    def triplets(self, *, data_root: Path | None) -> Sequence[Triplet]:
        """The 18,000 of the three train splits, as one set."""
        places = locate(data_root, self.name, PLACES)
        captions, splits, images = (places[p.name] or Path() for p in PLACES)
        rows = [
            (category, row)
            for category in CATEGORIES
            for _, row in read_triplets(captions / f"cap.{category}.train.json")
        ]
        names = [row[role] for _, row in rows for role in ("candidate", "target")]
        paths = find_image_files(images, list(dict.fromkeys(names)), splits)
        check_none_missing("training images", find_absent(paths))
        refs = {name: make_file_ref(path, name) for name, path in paths.items()}
        return [
            Triplet(
                reference=refs[row["candidate"]],
                target=refs[row["target"]],
                captions=make_wordings(row["captions"]),
                group=category,
                fields=(
                    make_caption_fields(row["captions"]),
                    make_caption_fields(row["captions"][::-1]),
                ),
            )
            for category, row in rows
        ]

    def make(self, *, full: bool, seed: int) -> MadeData:
        from cirbench.datasets.made.fashion_iq import make

        return make(full=full, seed=seed)

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        raise MissingData("fashion-iq has no unlabelled training images here")


def read_triplets(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a caption file with their numbers.

    Raises:
        CorruptData: as `read_rows`, or a row has not two captions.
    """
    for number, row in read_rows(path, ROW_FIELDS):
        captions = row["captions"]
        if len(captions) != 2 or not all(isinstance(caption, str) for caption in captions):
            raise CorruptData(f"{path}, row {number}: captions must be a list of two texts")
        yield number, row


def read_category(
    caption_file: Path, split_file: Path, protocol: EvaluationProtocol, category: str, start: int
) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    """A category's gallery, and per query its reference's name and the fields of a `Query`.

    Args:
        start: the row of the whole task's gallery at which the category's begins.

    Raises:
        CorruptData: a row lacks a field, or names an image that is not in the gallery.
    """
    triplets = list(read_triplets(caption_file))
    gallery = read_gallery_names(split_file, triplets, protocol)
    rows = number_names(gallery, split_file)
    queries = []
    for number, row in triplets:
        reference = find_row(rows, row["candidate"], caption_file, number)
        target = find_row(rows, row["target"], caption_file, number)
        for ending, captions in order_captions(row["captions"], protocol):
            fields = {
                "id": f"{category}/{number}{ending}",
                "positives": (start + target,),
                "group": category,
                "fields": make_caption_fields(captions),
                "removed": start + reference if protocol.reference_removed else None,
            }
            queries.append((row["candidate"], fields))
    return gallery, queries


def order_captions(
    captions: Sequence[str], protocol: EvaluationProtocol
) -> list[tuple[str, Sequence[str]]]:
    """The captions in each order in which they are asked, and what its query's id ends in."""
    if protocol.caption_orders == "first":
        return [("", captions)]
    return [("/0", captions), ("/1", captions[::-1])]
