"""imagenet-r: every rule of its protocol, on made pictures in the real layouts."""

from __future__ import annotations

import shutil
import zlib
from collections import Counter
from functools import partial

import numpy as np
import pytest
from places import SHARED

from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.imagenet_r import DOMAINS, PROTOCOL, ImageNetR, read_lists

LISTS = SHARED / "data" / "imgnet"
CLASSES = {
    "n01": {"cartoon": 3, "toy": 1},
    "n02": {"origami": 2, "sculpture": 1, "cartoon": 1},
    "n03": {"cartoon": 1},
}
PHOTOS = 2


def write(picture, root, photos="imgnet/real", renditions="imgnet/imagenet-r", lists=True):
    """Three classes with two photos each; renditions of other domains do not take part."""
    queries, targets = [], []
    for number, (wnid, domains) in enumerate(CLASSES.items()):
        for kind, names in (
            (photos, [f"ILSVRC2012_val_{number}{i}.JPEG" for i in range(PHOTOS)]),
            (renditions, [f"{d}_{i}.jpg" for d, n in domains.items() for i in range(n)]),
            (renditions, ["art_0.jpg"]),
        ):
            folder = root / kind / wnid
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                (folder / name).write_bytes(picture(zlib.crc32(f"{wnid}/{name}".encode())))
            for name in names:
                domain = name.split("_")[0]
                if kind == photos:
                    queries.append(f"imgnet/real/{wnid}/{name} {number} ")
                    targets.append(f"imgnet/real/{wnid}/{name} {number + 6000} ")
                elif domain in DOMAINS:
                    label = number + 1000 * DOMAINS.index(domain)
                    targets.insert(0, f"imgnet/imagenet-r/{wnid}/{name} {label} ")
    if lists:
        folder = root / "imgnet"
        folder.mkdir(exist_ok=True)
        (folder / "imgnet_real_query.txt").write_text("\n".join(queries) + "\n", encoding="utf-8")
        (folder / "imgnet_targets.txt").write_text("\n".join(targets) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def make(picture):
    return partial(write, picture)


def load(root):
    return ImageNetR().load(protocol=PROTOCOL, split="test", data_root=root)


def test_each_photo_is_a_query_once_a_domain_and_a_distractor(make, tmp_path):
    data = load(make(tmp_path))
    photos = len(CLASSES) * PHOTOS
    renditions = sum(sum(domains.values()) for domains in CLASSES.values())
    assert len(data.queries) == photos * 4
    assert len(data.gallery) == renditions + photos
    assert data.groups == DOMAINS
    rows = {ref.id: row for row, ref in enumerate(data.gallery)}
    for query in data.queries:
        assert rows[query.reference.id] >= renditions
        assert query.removed is None
    refs = [*data.gallery, *(query.reference for query in data.queries)]
    assert len({ref.id for ref in refs}) == renditions + photos


def test_positives_are_the_class_in_the_domain_and_may_be_none(make, tmp_path):
    data = load(make(tmp_path))
    for query in data.queries:
        wnid = query.id.split("/")[1]
        found = [data.gallery[row].id for row in query.positives]
        assert len(found) == CLASSES[wnid].get(query.group, 0)
        assert all(f"imagenet-r/{wnid}/{query.group}_" in name for name in found)
    assert Counter(len(query.positives) for query in data.queries)[0] == 12


@pytest.mark.parametrize(
    ("photos", "renditions"),
    [
        ("imgnet/real", "imgnet/imagenet-r"),
        ("imagenet/val", "imagenet-r"),
        ("ILSVRC2012/val", "imagenet-r"),
    ],
)
@pytest.mark.parametrize("lists", [True, False])
def test_all_layouts_with_and_without_lists_are_one_task(make, tmp_path, photos, renditions, lists):
    first = load(make(tmp_path / "a"))
    other = load(make(tmp_path / "b", photos, renditions, lists))
    assert [ref.id for ref in first.gallery] == [ref.id for ref in other.gallery]
    assert [(q.id, q.positives) for q in first.queries] == [
        (q.id, q.positives) for q in other.queries
    ]
    assert first.annotations_sha256 == other.annotations_sha256


def test_with_lists_a_class_without_renditions_needs_no_folder(make, tmp_path):
    whole = load(make(tmp_path))
    shutil.rmtree(tmp_path / "imgnet/imagenet-r/n03")
    targets = tmp_path / "imgnet" / "imgnet_targets.txt"
    kept = [
        line
        for line in targets.read_text(encoding="utf-8").splitlines()
        if "imagenet-r/n03" not in line
    ]
    targets.write_text("\n".join(kept), encoding="utf-8")
    data = load(tmp_path)
    assert len(data.queries) == len(whole.queries)
    assert len(data.gallery) == len(whole.gallery) - 1


def test_recall_is_over_all_queries_with_the_released_epsilon(make, tmp_path):
    request = Request(
        methods=("image-only",),
        task="imagenet-r",
        backbone="fake",
        data_root=make(tmp_path),
        output=tmp_path / "results",
    )
    [record] = run(plan(request), Reporter(quiet=True))
    arrays = record.read_per_query()
    metrics = record.metrics
    for domain in DOMAINS:
        values = []
        for query, top in zip(load(tmp_path).queries, arrays.top, strict=True):
            if query.group == domain:
                found = len(set(top[:5].tolist()) & set(query.positives))
                values.append(100 * found / (len(query.positives) + 1e-5))
        assert len(values) == 6
        assert metrics[domain]["R@5"].value == pytest.approx(np.mean(values), abs=1e-9)
        assert metrics[domain]["R@200"].value < 100
    average = np.mean([metrics[domain]["R@5"].value for domain in DOMAINS])
    assert metrics["average"]["R@5"].value == pytest.approx(average)
    assert record.counts.queries_without_positives == 12
    assert record.counts.image_passes == record.counts.gallery


def test_texts_are_the_papers():
    assert PROTOCOL.text("pseudo-word", "origami", {}) == "a origami of *"
    assert PROTOCOL.text("text", "toy", {}) == "a toy of "


def test_a_missing_picture_is_counted_and_bars_the_run(make, tmp_path):
    make(tmp_path)
    (tmp_path / "imgnet/imagenet-r/n01/cartoon_1.jpg").unlink()
    assert list(load(tmp_path).missing) == ["imagenet-r/n01/cartoon_1.jpg"]


def test_a_picture_that_is_not_listed_is_refused(make, tmp_path):
    make(tmp_path)
    source = tmp_path / "imgnet/real/n01/ILSVRC2012_val_00.JPEG"
    shutil.copy(source, source.with_name("ILSVRC2012_val_99.JPEG"))
    with pytest.raises(CorruptData, match=r"1 photos .* n01/ILSVRC2012_val_99\.JPEG"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("imgnet/imagenet-r/n01/toy_9.jpg", "row 1 must be a path with a label"),
        ("imgnet/imagenet-r/n01/toy_9.jpg 1000 ", "row 1: label 1000 must be of the domain toy"),
        ("imgnet/imagenet-r/n01/toy_0.jpg 2000 ", "listed twice"),
        ("imgnet/imagenet-r/n01/toy_9.jpg 2007 ", "must have one class number, got two"),
        ("imgnet/imagenet-r/../toy_9.jpg 2000 ", "row 1"),
        ("imgnet/real/n01/ILSVRC2012_val_77.JPEG 6000 ", "the same photos"),
    ],
)
def test_a_list_that_contradicts_itself_names_file_and_row(make, tmp_path, line, words):
    targets = make(tmp_path) / "imgnet" / "imgnet_targets.txt"
    targets.write_text(line + "\n" + targets.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(CorruptData, match=words) as error:
        load(tmp_path)
    assert "imgnet_targets.txt" in str(error.value)


def test_what_is_not_there_is_said_at_once(make, tmp_path):
    with pytest.raises(MissingData, match="--data-root"):
        load(None)
    with pytest.raises(MissingData, match=r"renditions \(.*\); photos \("):
        load(tmp_path)


@pytest.mark.skipif(not LISTS.is_dir(), reason="needs the reference data: the released lists")
def test_the_released_lists_have_the_published_counts():
    photos, renditions = read_lists(LISTS / "imgnet_real_query.txt", LISTS / "imgnet_targets.txt")
    assert len(photos) == 10_000
    assert len(renditions) == 6_983
    assert Counter(item.domain for item in renditions) == {
        "cartoon": 3726,
        "origami": 550,
        "toy": 1511,
        "sculpture": 1196,
    }
    assert set(Counter(item.wnid for item in photos).values()) == {50}
    classes = {d: {i.wnid for i in renditions if i.domain == d} for d in DOMAINS}
    assert [len(classes[d]) for d in DOMAINS] == [153, 106, 144, 142]
