"""bench search: one's own pictures and words through the same methods and the same ranking."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from typer.testing import CliRunner

from cirbench.benchmark import search as searching
from cirbench.benchmark.backbones import load_backbone
from cirbench.benchmark.cli import app
from cirbench.benchmark.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.plan import Request
from cirbench.benchmark.preprocess import preprocess
from cirbench.benchmark.progress import Reporter

QUIET = Reporter(quiet=True)


def found(folder, images, texts, top=5, **changes):
    request = Request(methods=("image-only",), task="search", backbone="fake", **changes)
    queries = searching.queries_of(images, texts)
    plan = searching.plan_search(request, searching.gallery_of(str(folder)), queries)
    return searching.search(plan, top, QUIET)


def embeddings(paths):
    backbone = load_backbone("fake")
    transform = preprocess("clip", backbone.image_spec)
    pixels = torch.stack([transform(Image.open(path)) for path in paths])
    return normalize(backbone.encode_images(pixels), dim=1)


def test_the_ranking_is_that_of_the_embeddings(picture_folder):
    paths = sorted(picture_folder.iterdir())
    [answer] = found(picture_folder, [paths[3]], ["a cartoon of *"])
    vectors = embeddings(paths)
    order = (vectors @ vectors[3]).argsort(descending=True)[:5].tolist()
    assert [hit.picture.id for hit in answer.hits] == [paths[i].name for i in order]
    assert answer.hits[0].similarity == pytest.approx(1, abs=1e-5)
    assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4, 5]


def test_one_picture_goes_with_all_texts_and_commas_are_text(picture_folder):
    path = picture_folder / "00.png"
    answers = found(picture_folder, [path], ["* , red", "a * , and blue"])
    assert [answer.text for answer in answers] == ["* , red", "a * , and blue"]
    with pytest.raises(UsageError, match="2 images and 3 texts"):
        searching.queries_of([path] * 2, ["a", "b", "c"])


def test_plain_texts_lose_the_placeholder():
    [query] = searching.queries_of(["a.png"], ["a cartoon of * , red"])
    text = searching.PROTOCOL.text
    assert text("text", "all", query.fields) == "a cartoon of , red"
    assert text("pseudo-word", "all", query.fields) == "a cartoon of * , red"


def test_no_more_than_there_are(picture_folder):
    [answer] = found(picture_folder, [picture_folder / "00.png"], ["*"], top=99)
    assert len(answer.hits) == 24


def bench(*arguments):
    return CliRunner().invoke(app, ["search", "-q", *map(str, arguments)])


def test_the_command_prints_writes_and_gives_json(picture_folder, tmp_path):
    base = ("-i", picture_folder / "05.png", "--text", "<b>* & co", "-g", picture_folder,
            "-m", "image-only", "-m", "image-text", "-b", "fake", "--top", "3")  # fmt: skip
    assert "05.png" in bench(*base).stdout
    told = json.loads(bench(*base, "--json").stdout)
    assert [(a["method"], len(a["hits"])) for a in told] == [("image-only", 3), ("image-text", 3)]
    assert told[0]["hits"][0]["picture"] == "05.png"
    page, sheet = tmp_path / "found.html", tmp_path / "found.png"
    assert bench(*base, "--html", page, "--png", sheet).exit_code == 0
    text = page.read_text()
    assert "&lt;b&gt;* &amp; co" in text
    assert "<b>" not in text
    assert text.count("data:image/") == 8
    assert "http" not in text
    assert Image.open(sheet).size == (4 * 96 + 24, 2 * 96)


def test_pic2word_searches_emoji_with_its_shipped_weights(tmp_path):
    gallery = searching.gallery_of("emoji")
    source = next(ref for ref in gallery if ref.id.startswith("3d/"))
    picture = tmp_path / "q.png"
    Image.open(io.BytesIO(source.read())).convert("RGB").save(picture)
    queries = searching.queries_of([picture], ["a flat icon of *"])
    request = Request(methods=("pic2word", "combiner"), task="search", batch_size=64)
    plan = searching.plan_search(request, (*gallery[:300], source), queries)
    answers = searching.search(plan, 5, QUIET)
    assert [answer.method for answer in answers] == ["pic2word", "combiner"]
    assert all(len(answer.hits) == 5 for answer in answers)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"-g": "nowhere"}, MissingData),
        ({"-i": "nowhere.png"}, MissingData),
        ({"-m": "pic2word"}, MissingData),
        ({"-m": "pic2wrod"}, UsageError),
    ],
)
def test_mistakes_are_clear(picture_folder, change, error):
    given = {"-i": picture_folder / "00.png", "--text": "*", "-g": picture_folder,
             "-m": "image-only", "-b": "fake", **change}  # fmt: skip
    assert isinstance(bench(*(x for pair in given.items() for x in pair)).exception, error)


def test_a_pixel_bomb_and_a_broken_picture_are_named(picture_folder, monkeypatch):
    (picture_folder / "zz.png").write_bytes(b"no picture")
    with pytest.raises(CorruptData, match=r"zz\.png .*no known picture format"):
        found(picture_folder, [picture_folder / "00.png"], ["*"])
    (picture_folder / "zz.png").unlink()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CorruptData, match="decompression bomb"):
        found(picture_folder, [picture_folder / "00.png"], ["*"], cache="off")


def test_a_second_search_encodes_only_the_query(picture_folder):
    first = searching.queries_of([picture_folder / "00.png"], ["*"])
    gallery = searching.gallery_of(str(picture_folder))
    request = Request(methods=("image-only",), task="search", backbone="fake")
    plan = searching.plan_search(request, gallery, first)
    searching.search(plan, 3, QUIET)
    from cirbench.benchmark.run import embed

    backbone = load_backbone("fake")
    assert embed(replace(plan), backbone, QUIET).passes == 0
