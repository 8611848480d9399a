"""Free search: what is paired with what, by any method, over any gallery, and what is refused."""

from __future__ import annotations

import html
import io
import json
import re
import struct
import zlib
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from cirbench.benchmark.api import registry
from cirbench.benchmark.api.method import Method
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.reading import find_images_in_folder
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.search import search as searching
from cirbench.benchmark.search.pages import SIDE, make_thumbnail
from cirbench.benchmark.search.query import FreeQuery, make_picture, pair_queries, read_picture
from cirbench.benchmark.search.search import Gallery, Searcher, open_gallery
from cirbench.datasets.emoji.pictures import read_pictures
from cirbench.methods.baselines import ImageOnly, ImageText, TextOnly
from cirbench.methods.pic2word.method import MappingNetwork, Pic2Word

QUIET = Reporter(quiet=True)


def refs(*names):
    return [ImageRef(id=name, read=bytes) for name in names]


def shape(queries):
    return [([image.id for image in query.images], query.prompt) for query in queries]


def bomb(side=20_000):
    """A PNG of a few hundred bytes that says it has side × side pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_images_and_prompts_pair_by_position_and_commas_are_text():
    a, b, c = refs("a", "b", "c")
    pairs = pair_queries([a, b], ["a cartoon of * , red", "x, y, z"])
    assert shape(pairs) == [(["a"], "a cartoon of * , red"), (["b"], "x, y, z")]
    assert shape(pair_queries([a], ["one *", "two *"])) == [(["a"], "one *"), (["a"], "two *")]
    assert shape(pair_queries([a, b, c], ["* and *", "a *"])) == [
        (["a", "b"], "* and *"),
        (["c"], "a *"),
    ]
    assert shape(pair_queries([a, b], [])) == [(["a"], ""), (["b"], "")]
    assert shape(pair_queries([], ["x", "y"])) == [([], "x"), ([], "y")]


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        ((), (), "needs --image, --text"),
        ("a", ("* and *",), "1 prompts with 2 placeholders need as many pictures, got 1"),
        ("ab", ("a *", "b *", "c *"), "3 prompts with 3 placeholders need as many pictures, got 2"),
        ("ab", ("a *",), "1 prompts with 1 placeholders need as many pictures, got 2"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(images, prompts, message):
    with pytest.raises(UsageError, match=message):
        pair_queries(refs(*images), prompts)


def test_the_text_for_methods_of_plain_text_is_without_placeholders():
    assert FreeQuery(images=(), prompt="a * , on  a * x*").text == "a , on a x*"
    assert FreeQuery(images=(), prompt="*").text == ""


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_picture_is_refused_before_it_is_decoded(content):
    with pytest.raises(CorruptData, match="must be a picture of one of the formats"):
        make_picture("it", content)


@pytest.mark.parametrize("side", [14_000, 20_000])
def test_a_pixel_bomb_is_refused(side):
    with pytest.raises(CorruptData, match=r"refused: it must have at most .* pixels"):
        make_picture("bomb.png", bomb(side))


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(MissingData, match=r"dog.jpg"):
        read_picture(tmp_path / "dog.jpg")


@pytest.fixture
def searcher(fake, picture_folder):
    gallery = open_gallery(
        fake,
        find_images_in_folder(picture_folder),
        skip_unreadable=False,
        workers=1,
        reporter=QUIET,
    )
    return Searcher(backbone=fake, gallery=gallery)


@pytest.fixture
def mapper(fake):
    torch.manual_seed(0)
    return Pic2Word(MappingNetwork(fake.embedding_width, fake.token_width), "nothing")


def found(searcher, method, query, top=24):
    return searcher.find(method, query, searcher.embed(query), top)


def test_a_picture_finds_itself_first(searcher, picture_folder):
    query = FreeQuery(images=(read_picture(picture_folder / "07.png"),))
    hits = found(searcher, ImageOnly(), query, top=3)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert hits[0].picture.id == "07.png"
    assert hits[0].similarity == pytest.approx(1, abs=1e-5)
    assert hits[0].similarity >= hits[1].similarity >= hits[2].similarity


@torch.inference_mode()
def test_each_kind_of_method_composes_its_equation(searcher, mapper, picture_folder):
    dog, cat = (read_picture(picture_folder / name) for name in ("01.png", "02.png"))
    tower = searcher.backbone
    query = FreeQuery(images=(dog,), prompt="a cartoon of *")
    v, t = searcher.embed(query), tower.encode_texts(["a cartoon of"])
    two = FreeQuery(images=(dog, cat), prompt="a * and a *")
    words = mapper.mapper(searcher.embed(two))
    for method, asked, vector in (
        (ImageOnly(), query, v),
        (TextOnly(), query, t),
        (TextOnly(), FreeQuery(images=(), prompt="a cartoon of"), t),
        (ImageText(), query, normalize(v, dim=1) + normalize(t, dim=1)),
        (mapper, query, tower.encode_prompts(["a cartoon of *"], mapper.mapper(v))),
        (mapper, two, tower.encode_prompts(["a * and a *"], words.unsqueeze(0))),
    ):
        cosines = normalize(searcher.gallery.features, dim=1) @ normalize(vector, dim=1)[0]
        order = cosines.argsort(descending=True, stable=True)
        hits = found(searcher, method, asked)
        names = [searcher.gallery.pictures[row].id for row in order]
        assert [hit.picture.id for hit in hits] == names
        assert [hit.similarity for hit in hits] == pytest.approx(cosines[order].tolist(), abs=1e-5)


def test_the_order_of_two_pictures_matters(searcher, mapper, picture_folder):
    dog, cat = (read_picture(picture_folder / name) for name in ("01.png", "02.png"))
    orders = [FreeQuery(images=images, prompt="* beside *") for images in ((dog, cat), (cat, dog))]
    one, other = (searcher.find(mapper, query, searcher.embed(query), 24) for query in orders)
    assert {hit.picture.id for hit in one} == {hit.picture.id for hit in other}
    assert [hit.similarity for hit in one] != [hit.similarity for hit in other]


@pytest.mark.parametrize(
    ("method", "images", "prompt", "message"),
    [
        (ImageOnly, (), "a dog", "needs a picture"),
        (TextOnly, ("00.png",), " * ", "needs a text"),
        (ImageText, ("00.png",), "", "needs a text"),
        (ImageText, ("00.png", "01.png"), "* and *", "image-text takes one picture a query"),
        (ImageOnly, ("00.png", "01.png"), "* and *", "image-only takes one picture a query"),
        ("pic2word", ("00.png",), "a cartoon", "'a cartoon' has no placeholder"),
        ("pic2word", ("00.png",), "a photo of *, red", "no placeholder"),
        ("pic2word", (), "a photo of *", "needs a picture"),
    ],
)
def test_a_query_that_a_method_has_no_use_for_is_refused(
    searcher, mapper, picture_folder, method, images, prompt, message
):
    files = tuple(read_picture(picture_folder / name) for name in images)
    composer = mapper if method == "pic2word" else method()
    with pytest.raises(UsageError, match=message):
        found(searcher, composer, FreeQuery(images=files, prompt=prompt))


def test_a_method_that_composes_no_unit_vector_is_refused(searcher):
    class Broken(Method):
        name: ClassVar = "broken"

        def compose(self, queries):
            return 2 * queries.text_features()

    with pytest.raises(CorruptData, match="broken must compose a vector of unit length"):
        found(searcher, Broken(), FreeQuery(images=(), prompt="x"))


def test_unreadable_pictures_are_counted_named_and_left_out_only_when_asked(fake, picture_folder):
    (picture_folder / "04.png").write_bytes(b"junk")
    (picture_folder / "09.png").write_bytes((picture_folder / "09.png").read_bytes()[:99])
    (picture_folder / "gone.png").symlink_to("nowhere.png")
    (picture_folder / "bomb.png").write_bytes(bomb())
    given = find_images_in_folder(picture_folder)
    options = {"workers": 2, "reporter": QUIET}
    message = r"3 of 25 .* read: 04.png .*, 09.png \(.*truncated.*, bomb.png .*--skip-unreadable"
    with pytest.raises(CorruptData, match=message):
        open_gallery(fake, given, skip_unreadable=False, **options)
    gallery = open_gallery(fake, given, skip_unreadable=True, **options)
    assert tuple(gallery.unreadable) == ("04.png", "09.png", "bomb.png")
    assert len(gallery.pictures) == len(gallery.features) == 22
    whole = open_gallery(fake, gallery.pictures, skip_unreadable=False, **options)
    assert torch.equal(whole.features, gallery.features)
    with pytest.raises(CorruptData, match="1 of 1 gallery"):
        open_gallery(fake, [r for r in given if r.id == "04.png"], skip_unreadable=True, **options)


def test_many_unreadable_pictures_are_not_all_named(fake):
    given = [ImageRef(id=f"bad-{i}", read=lambda: b"junk") for i in range(30)]
    with pytest.raises(CorruptData, match=r"30 of 30 .*bad-19 \(.*\) and 10 more;"):
        open_gallery(fake, given, skip_unreadable=False, workers=1, reporter=QUIET)


class Given(ImageOnly):
    """Composes one query into a vector that is given."""

    def __init__(self, vector):
        self.vector = vector

    def compose(self, queries):
        return self.vector


def test_the_best_of_ten_thousand_pictures_are_found_in_order(fake):
    vectors = normalize(torch.randn(10_000, 768, generator=torch.Generator().manual_seed(0)), dim=1)

    def find(names, features, top):
        searcher = Searcher(
            backbone=fake, gallery=Gallery(pictures=refs(*names), features=features)
        )
        hits = searcher.find(
            Given(vectors[[17]]), FreeQuery(images=(), prompt="a"), vectors[:0], top
        )
        return [hit.picture.id for hit in hits]

    order = np.argsort(-(vectors.numpy() @ vectors[17].numpy()), kind="stable")
    assert find(map(str, range(10_000)), 3 * vectors, 20) == [str(row) for row in order[:20]]
    assert len(find("ab", vectors[:2], 20)) == 2


class Nearest(Given):
    """Scores by distance from a picture's embedding, twice as long as it was."""

    def gallery(self, features):
        return 2 * features

    def score(self, queries, gallery):
        return -torch.cdist(queries, gallery)


def test_a_method_is_searched_by_its_own_score_and_gallery(fake):
    features = torch.tensor([[4.0, 0], [1, 0], [0, 1], [1, 0]])
    searcher = Searcher(backbone=fake, gallery=Gallery(pictures=refs(*"abcd"), features=features))
    query = FreeQuery(images=(), prompt="a")
    for vector, order in (([2.0, 0], "bdca"), ([8.0, 0], "abdc"), ([0, 3.0], "cbda")):
        hits = searcher.find(Nearest(torch.tensor([vector])), query, features[:0], 4)
        assert "".join(hit.picture.id for hit in hits) == order
    assert hits[0].similarity == -1


class Seeing(ImageOnly):
    """Embeds its reference once more, from its pixels."""

    def __init__(self, tower):
        self.tower = tower

    def compose(self, queries):
        return normalize(self.tower.encode_images(queries.reference_pixels), dim=-1)


def test_a_method_may_read_the_pixels_of_a_searchs_picture(searcher, picture_folder):
    query = FreeQuery(images=(read_picture(picture_folder / "07.png"),))
    seeing, plain = (found(searcher, m, query) for m in (Seeing(searcher.backbone), ImageOnly()))
    assert [hit.picture.id for hit in seeing] == [hit.picture.id for hit in plain]
    with pytest.raises(UsageError, match="needs a picture"):
        found(searcher, Seeing(searcher.backbone), FreeQuery(images=(), prompt="a"))


def test_the_backbone_is_the_one_asked_for_the_tasks_or_the_one_with_shipped_weights():
    choose = searching.choose_backbone
    assert choose("fake", "emoji-clip", ["pic2word"]) == "fake"
    assert choose(None, "ViT-L-14/openai", ["pic2word"]) == "ViT-L-14/openai"
    assert choose(None, None, ["image-only"]) == choose(None, None, ["pic2word"]) == "emoji-clip"
    with pytest.raises(UsageError, match="searching a folder with context-i2w needs --backbone"):
        choose(None, None, ["context-i2w"])


def test_thumbnails_are_small_and_white_where_pictures_are_transparent():
    buffer = io.BytesIO()
    Image.new("RGBA", (400, 100), (255, 0, 0, 0)).save(buffer, "PNG")
    pixels = make_thumbnail(make_picture("transparent", buffer.getvalue()))
    assert pixels.shape == (SIDE // 4, SIDE, 3)
    assert (pixels == 255).all()


@pytest.fixture
def bench(bench, monkeypatch, tmp_path):
    """Runs bench search in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    return partial(bench, "search")


def test_json_table_page_and_grid_hold_the_same_hits(bench, picture_folder, tmp_path):
    call = ["-m", "image-text", "-b", "fake", "--gallery", picture_folder, "--top", 4]
    call += ["--image", picture_folder / "03.png", "--text", "<b>red</b>, *", "--text", "x $y$ *"]
    code, out, _ = bench(*call, "--json", "--html", "sub/found.html", "--png", "found.png")
    data = json.loads(out)
    assert code == 0
    assert (data["method"], data["backbone"], data["pictures"]) == ("image-text", "fake", 24)
    assert [q["text"] for q in data["queries"]] == ["<b>red</b>, *", "x $y$ *"]
    paths = [hit["path"] for q in data["queries"] for hit in q["results"]]
    assert len(paths) == 8
    page = (tmp_path / "sub" / "found.html").read_text(encoding="utf-8")
    assert re.findall(r'alt="(\d\d\.png)"', page) == paths
    assert "<b>" not in page.replace("<body>", "")
    assert html.escape("<b>red</b>, *") in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    with Image.open("found.png") as grid:
        assert grid.width > 400
    _, out, _ = bench(*call)
    assert re.findall(r"^ +\d +[-\d.]+ +(\S+)", out, re.MULTILINE) == paths
    code, out, _ = bench(*call, "--html", "again.html")
    assert (code, out) == (0, "again.html\n")


def test_pic2word_finds_an_emoji_in_another_style_with_shipped_weights_alone(bench, tmp_path):
    chosen = [p for p in read_pictures() if p.split == "test" and p.style in ("3d", "twemoji")]
    codes = [p.code for p in chosen if p.style == "3d"][:40]
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    for p in chosen:
        if p.style == "twemoji" and p.code in codes:
            (gallery / f"{p.code}.webp").write_bytes(p.ref.read())
    sources = {p.code: p for p in chosen if p.style == "3d" and p.code in codes}
    arguments = ["-m", "pic2word", "--gallery", "gallery", "--json", "--top", 10]
    for code in codes:
        (tmp_path / f"{code}.webp").write_bytes(sources[code].ref.read())
        arguments += ["--image", f"{code}.webp", "--text", "a twitter emoji of *"]
    _, out, _ = bench(*arguments)
    answers = json.loads(out)["queries"]
    hits = [
        any(hit["path"] == f"{code}.webp" for hit in answer["results"])
        for code, answer in zip(codes, answers, strict=True)
    ]
    assert np.mean(hits) > 0.5  # by chance 0.25


def test_a_task_is_a_gallery(bench, picture_folder, monkeypatch):
    names = [p.ref for p in read_pictures() if p.split == "val"][:30]

    class Small:
        splits, default_backbone = ("val",), "fake"
        protocols: ClassVar = {"plain": searching.PROTOCOL}

        def load(self, **_):
            from cirbench.benchmark.api.values import TaskData

            return TaskData(gallery=(*names, *names), queries=(), annotations={})

    monkeypatch.setattr(searching, "find_task", lambda _: Small)
    code, out, _ = bench(
        "-m",
        "image-only",
        "--gallery",
        "emoji",
        "--image",
        picture_folder / "00.png",
        "--json",
        "--top",
        99,
    )
    data = json.loads(out)
    assert (code, data["backbone"], data["pictures"]) == (0, "fake", 30)
    assert {hit["path"] for hit in data["queries"][0]["results"]} == {ref.id for ref in names}


def test_mistakes_end_in_their_exit_codes(bench, picture_folder, tmp_path):
    one = picture_folder / "00.png"
    fake = ("-m", "image-only", "-b", "fake", "--gallery")
    assert bench(*fake, picture_folder)[0] == 2
    assert bench(*fake, "nonesuch", "--image", one)[0] == 2
    assert bench(*fake, picture_folder, "--image", "nonesuch.png")[0] == 3
    assert bench("-m", "image", "--gallery", picture_folder, "--image", one)[0] == 2
    assert bench("-m", "searle", "--gallery", picture_folder, "--image", one)[0] == 2
    call = ("-m", "pic2word", "-b", "fake", "--gallery", picture_folder, "--image", one)
    assert bench(*call, "--text", "*")[0] == 3
    (tmp_path / "empty").mkdir()
    assert bench(*fake, "empty", "--image", one)[0] == 3
    (picture_folder / "junk.png").write_bytes(b"junk")
    assert bench(*fake, picture_folder, "--image", picture_folder / "junk.png")[0] == 4
    code, _, err = bench(*fake, picture_folder, "--image", one)
    assert code == 4
    assert "1 of 25 gallery pictures cannot be read: junk.png" in err
    code, _, err = bench(*fake, picture_folder, "--image", one, "--skip-unreadable")
    assert code == 0
    assert "left out as unreadable: junk.png" in err


def test_control_characters_in_names_do_not_reach_the_terminal(bench, picture_folder):
    (picture_folder / "00.png").rename(picture_folder / "\x1b[2Jx.png")
    _, out, _ = bench(
        "-m",
        "image-only",
        "-b",
        "fake",
        "--gallery",
        picture_folder,
        "--image",
        picture_folder / "01.png",
        "--top",
        99,
    )
    assert "\x1b" not in out
    assert "\ufffd[2Jx.png" in out


def test_every_registered_method_without_weights_can_be_searched_with(searcher, picture_folder):
    query = FreeQuery(images=(read_picture(picture_folder / "05.png"),), prompt="red *")
    tried = [name for name in registry.methods() if not registry.needs_checkpoint(name)]
    for name in tried:
        method = searching.build_method(name, searcher.backbone, "fake", None)
        assert len(found(searcher, method, query, top=5)) == 5
    assert len(tried) >= 3
