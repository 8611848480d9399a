"""Task `imagenet-r`: domain conversion from ImageNet photos to ImageNet-R's renditions.

Saito et al., CVPR 2023, section 4.1 and table 1; google-research/composed_image_retrieval,
--eval-mode imgnet. 10,000 validation photos of the 200 classes of ImageNet-R are asked for once per
domain (cartoon, origami, toy, sculpture), against the 6,983 renditions of these domains and the
same 10,000 photos as distractors, the query's own among them. Positives are all renditions of its
class in the domain; a query that has none counts as 0. The average is the plain mean of the four
domains.

Which pictures take part is what the folders hold; where the released lists lie in the data root
too, both must agree. Protocol `context-i2w`, of Pter61/context-i2w, is the same (its texts may be
cut, but none is so long). The order of the gallery, which decides ties alone, is that of the sorted
paths in both cases, so that both give one and the same task.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Download, Place, Task
from cirbench.benchmark.api.values import ImageRef, MadeData, Query, Released, TaskData
from cirbench.benchmark.data.annotations import find_absent
from cirbench.benchmark.data.layout import locate
from cirbench.benchmark.images.leftovers import HIDDEN, SkippedFiles, is_leftover, list_folder
from cirbench.benchmark.images.reading import make_file_ref
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.parsing import read_lines
from cirbench.benchmark.runtime.paths import check_inside

DOMAINS = ("cartoon", "origami", "toy", "sculpture")
"""In the order of the released lists, whose labels are class + 1000 × domain."""
_PHOTO_BLOCK = 6

PROTOCOL = EvaluationProtocol(
    name="pic2word",
    version=1,
    gallery="renditions of all four domains, then all query photos as distractors",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "a {domain} of ", "pseudo-word": "a {domain} of *"},
    group_fields={domain: {"domain": domain} for domain in DOMAINS},
    metrics=("R@1", "R@5", "R@10", "R@50", "R@100", "R@200"),
    headline="R@10",
    recall_epsilon=1e-5,
)

CONTEXT_I2W = replace(PROTOCOL, name="context-i2w", overlong_text="truncate")

LISTS = {
    "imgnet_real_query.txt": "cd19c2d76f7fee0c47afba6dfc182c3fd5dbf800c0a80149feca6e0547936d1e",
    "imgnet_targets.txt": "4cc6b22d493b783f2f7fce356276096c0d5ec38be95bd3a3349c8458b8a4a311",
}
"""The released lists, by sha256."""

PLACES = (
    Place(name="renditions", candidates=("imgnet/imagenet-r", "imagenet-r")),
    Place(
        name="photos",
        candidates=("imgnet/real", "imagenet/val", "imagenet/real", "ILSVRC2012/val"),
    ),
    Place(
        name="query list",
        candidates=("imgnet/imgnet_real_query.txt", "imagenet-r/imgnet_real_query.txt"),
        optional=True,
    ),
    Place(
        name="target list",
        candidates=("imgnet/imgnet_targets.txt", "imagenet-r/imgnet_targets.txt"),
        optional=True,
    ),
)


@dataclass(frozen=True, order=True, slots=True)
class Item:
    """A picture of a class (wnid), in a domain, or a photo (domain None)."""

    wnid: str
    name: str
    domain: str | None = None


def read_lists(queries: Path, targets: Path) -> tuple[list[Item], list[Item]]:
    """Read photos and renditions from the two released lists.

    Raises:
        CorruptData: a line is no path with a label, a label contradicts its line or another
            line, or the photos of the two lists differ.
    """
    photos = [item for item, _ in _read_lines(queries, photos_only=True)]
    classes: dict[str, int] = {}
    renditions: list[Item] = []
    distractors: list[Item] = []
    for item, label in _read_lines(targets):
        if classes.setdefault(item.wnid, label % 1000) != label % 1000:
            raise CorruptData(f"{targets}: {item.wnid} must have one class number, got two")
        (distractors if item.domain is None else renditions).append(item)
    if set(photos) != set(distractors):
        raise CorruptData(f"{targets} must hold the same photos as {queries}, as distractors")
    return photos, renditions


def _read_lines(path: Path, *, photos_only: bool = False) -> Iterator[tuple[Item, int]]:
    seen = set()
    for row, line in enumerate(read_lines(path), start=1):
        match = re.fullmatch(r"\S*?([^/\s]+)/([^/\s]+) (\d{1,9}) ?", line)
        if not match or match[1] == ".":
            raise CorruptData(f"{path}, row {row} must be a path with a label, got {line[:80]!r}")
        check_inside(f"{match[1]}/{match[2]}", f"{path}, row {row}")
        label = int(match[3])
        block = 0 if photos_only else label // 1000
        domain = None if photos_only or block == _PHOTO_BLOCK else _parse_domain(match[2])
        if domain is not None and (block >= len(DOMAINS) or DOMAINS[block] != domain):
            raise CorruptData(f"{path}, row {row}: label {label} must be of the domain {domain}")
        item = Item(match[1], match[2], domain)
        if item in seen:
            raise CorruptData(f"{path}, row {row}: {match[1]}/{match[2]} is listed twice")
        seen.add(item)
        yield item, label


def _parse_domain(name: str) -> str:
    return name.partition("_")[0]


def list_classes(folder: Path, skipped: SkippedFiles) -> list[str]:
    """The names of the folders in a folder, sorted."""
    names = [path.name for path in list_folder(folder) if path.is_dir()]
    for name in filter(is_leftover, names):
        skipped.add(HIDDEN, f"{name}/")
    return [name for name in names if not is_leftover(name)]


def find_in_folders(
    photos: Path, renditions: Path, classes: Collection[str], skipped: SkippedFiles
) -> tuple[list[Item], list[Item]]:
    """Photos of the classes, and renditions in the four domains, by folder."""
    found = [
        Item(wnid, name, _parse_domain(name))
        for wnid in list_classes(renditions, skipped)
        for name in _list_pictures(renditions / wnid, skipped)
        if _parse_domain(name) in DOMAINS
    ]
    real = [
        Item(wnid, name)
        for wnid in sorted(classes)
        if (photos / wnid).is_dir()
        for name in _list_pictures(photos / wnid, skipped)
    ]
    return real, found


def _list_pictures(folder: Path, skipped: SkippedFiles) -> list[str]:
    """The names of the pictures in a folder; one that leads to no file counts as missing later."""
    return [path.name for path in list_folder(folder) if skipped.takes(path.name)]


def check_no_others(kind: str, wanted: Sequence[Item], found: Sequence[Item], path: Path) -> None:
    """The folders must hold no picture that the lists don't; the reverse is `TaskData.missing`.

    Raises:
        CorruptData: they do.
    """
    if extra := set(found) - set(wanted):
        first = min(extra)
        raise CorruptData(
            f"{path} has {len(extra):,} {kind} that are not in the list, the first is "
            f"{first.wnid}/{first.name}; remove them, or the list"
        )


class ImageNetR(Task):
    """10,000 photos × 4 domains against 16,983 images."""

    name: ClassVar[str] = "imagenet-r"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    default_backbone: ClassVar[str] = "ViT-L-14/openai"
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = {
        protocol.name: protocol for protocol in (PROTOCOL, CONTEXT_I2W)
    }
    places: ClassVar[Sequence[Place]] = PLACES
    released: ClassVar[Mapping[str, Released]] = {
        "test": Released(
            queries=dict.fromkeys(DOMAINS, 10_000),
            gallery=dict.fromkeys(protocols, 16_983),
            annotations_sha256="0efddf6ab44363dac2537d7e2cb26e3b5ffde80de644e1898ea231e8f7e21320",
        )
    }

    downloads: ClassVar[Sequence[Download]] = (
        Download(
            url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
            path="imgnet/imagenet-r.tar",
            checksum="md5:a61312130a589d0ca1a8fca1f2bd3337",
            makes="imgnet/imagenet-r",
        ),
        *(
            Download(
                url="https://raw.githubusercontent.com/google-research/composed_image_retrieval/"
                f"main/data/imgnet/{name}",
                path=f"imgnet/{name}",
                checksum=f"sha256:{sha256}",
            )
            for name, sha256 in LISTS.items()
        ),
    )
    how_to_get: ClassVar[str] = (
        "ImageNet-R (fetched above, 2 GB): github.com/hendrycks/imagenet-r. The photos are the "
        "validation images of ImageNet-1k (ILSVRC2012) of the same 200 classes; they need an "
        "account at image-net.org and its terms of access. Sort them into folders by class "
        "(valprep.sh) as DATA_ROOT/imgnet/real/WNID/*.JPEG, or put a whole imagenet/val there."
    )

    def load(self, *, protocol: EvaluationProtocol, split: str, data_root: Path | None) -> TaskData:
        places = locate(data_root, self.name, PLACES)
        photo_folder, rendition_folder = places["photos"], places["renditions"]
        assert photo_folder is not None  # needed places are never None
        assert rendition_folder is not None  # the same
        queries, targets = places["query list"], places["target list"]
        skipped = SkippedFiles()
        if queries is None or targets is None:
            classes = set(list_classes(rendition_folder, SkippedFiles()))
            photos, renditions = find_in_folders(photo_folder, rendition_folder, classes, skipped)
        else:
            photos, renditions = read_lists(queries, targets)
            classes = {item.wnid for item in photos}
            found = find_in_folders(photo_folder, rendition_folder, classes, skipped)
            check_no_others("photos", photos, found[0], photo_folder)
            check_no_others("renditions", renditions, found[1], rendition_folder)
        data = make_task_data(sorted(photos), sorted(renditions), photo_folder, rendition_folder)
        remarks = skipped.remarks()
        if (queries is None) != (targets is None):
            remarks.append(f"{queries or targets} was not used, since the other list is not there")
        return replace(data, remarks=tuple(remarks))

    def make(self, *, full: bool, seed: int) -> MadeData:
        from cirbench.datasets.made.imagenet_r import make

        return make(DOMAINS, full=full, seed=seed)

    def training_images(self, *, data_root: Path | None) -> Sequence[ImageRef]:
        raise MissingData("imagenet-r has no training images; Pic2Word is trained on CC3M")


def make_task_data(
    photos: Sequence[Item], renditions: Sequence[Item], photo_folder: Path, rendition_folder: Path
) -> TaskData:
    """Every photo is a query once per domain."""
    files = {
        **{f"imagenet-r/{i.wnid}/{i.name}": rendition_folder / i.wnid / i.name for i in renditions},
        **{f"real/{i.wnid}/{i.name}": photo_folder / i.wnid / i.name for i in photos},
    }
    refs = [make_file_ref(path, name) for name, path in files.items()]
    photo_refs = refs[len(renditions) :]
    positives: dict[tuple[str, str | None], list[int]] = {}
    for row, item in enumerate(renditions):
        positives.setdefault((item.wnid, item.domain), []).append(row)
    rows = {key: tuple(value) for key, value in positives.items()}
    queries = tuple(
        Query(
            id=f"{domain}/{item.wnid}/{item.name}",
            reference=ref,
            positives=rows.get((item.wnid, domain), ()),
            group=domain,
        )
        for domain in DOMAINS
        for item, ref in zip(photos, photo_refs, strict=True)
    )
    return TaskData(
        gallery=tuple(refs),
        queries=queries,
        annotations={"pictures and domains": _hash_items([*photos, *renditions])},
        missing=find_absent(files),
    )


def _hash_items(items: Sequence[Item]) -> str:
    text = "\n".join(f"{item.wnid}/{item.name} {item.domain}" for item in items)
    return hashlib.sha256(text.encode()).hexdigest()
