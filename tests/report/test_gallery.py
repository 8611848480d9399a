"""The gallery and the figure: which queries and pictures, what is framed, what is embedded."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from making import make_body, make_cell, make_counts
from PIL import Image
from places import RESULTS

from cirbench.benchmark.analysis.boards import read_boards
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import ImageRef, Interval, Query, TaskData
from cirbench.benchmark.records.record import write_record
from cirbench.benchmark.report import figure as drawing
from cirbench.benchmark.report import pictures
from cirbench.benchmark.report.figure import choose_board, choose_records, choose_rows, draw_figure
from cirbench.benchmark.report.gallery import METHODS, choose_queries, render_gallery
from cirbench.benchmark.report.pictures import Permission, load_task_data, make_thumbnail
from cirbench.benchmark.report.write import name_galleries, render_files
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.scoring.metrics import find_hits

PROTOCOL = EvaluationProtocol(
    name="captions",
    version=1,
    gallery="all",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "{caption}"},
    metrics=("R@1",),
    headline="R@1",
)
ITEM = re.compile(r'<li( class="h")?><i [^>]*title="([^"]*)"></i>([\d.]+)</li>')
CAPTION = "the same but <b>redder</b>"


@pytest.fixture(scope="module")
def emoji():
    [board] = [board for board in read_boards(RESULTS) if board.first.cell.task == "emoji"]
    return board


@pytest.fixture(scope="module")
def page(emoji):
    return render_gallery(emoji, load_task_data(emoji, None))


def install(monkeypatch, data):
    """Make every task one of these data, whose pictures may not be passed on."""
    task = type("Theirs", (), {"credit": "", "load": lambda *_, **__: data})
    monkeypatch.setattr(pictures, "find_task", lambda _: task)


@pytest.fixture
def licensed(monkeypatch, tmp_path, picture):
    """A task whose pictures are someone's, installed, with one record in a results folder."""
    refs = tuple(ImageRef(id=f"<{i}>.png", read=lambda i=i: picture(i, 300)) for i in range(4))
    queries = tuple(
        Query(id=f"q{i}", reference=refs[i], positives=(1, 2), fields={"caption": CAPTION})
        for i in range(3)
    )
    data = TaskData(gallery=refs, queries=queries, annotations={})
    install(monkeypatch, data)
    top = np.array([[1, 0], [3, 2], [0, -1]], dtype=np.int32)
    hits = find_hits(top, [(1, 2)] * 3)
    arrays = PerQuery(
        query=np.array([q.id for q in queries]),
        reference=np.array([r.id for r in refs[:3]]),
        group=np.array(["all"] * 3),
        gallery=np.array([r.id for r in refs]),
        top=top,
        similarity=np.array([[0.9, 0.5]] * 3, dtype=np.float32),
        hits=hits,
        positives=np.array([2] * 3),
        first_rank=np.array([1, 2, 3]),
        tied=np.zeros(3, dtype=bool),
        metrics=np.array(["R@1"]),
        values=np.array([[50.0], [0.0], [0.0]]),
    )
    interval = Interval(value=50 / 3, low=0.0, high=33.0, n=3)
    body = make_body(
        make_cell(PROTOCOL, task="theirs", split="val"),
        PROTOCOL,
        {name: {"R@1": interval} for name in ("average", "all")},
        ["all"],
        counts=make_counts(3, 3, 4),
    )
    write_record(tmp_path, body, arrays)
    return SimpleNamespace(root=tmp_path, data=data, board=read_boards(tmp_path)[0])


def licensed_page(root, permission):
    return render_files(root, permission)[Path("report/gallery-theirs.html")]


def test_chosen_queries_are_always_the_same_and_spread_over_groups():
    group = np.array(["a"] * 5 + ["b"] * 100 + ["c"] * 100)
    rows = choose_queries(group, 45)
    assert rows == choose_queries(group, 45) == sorted(set(rows))
    assert Counter(group[rows].tolist()) == {"a": 5, "b": 20, "c": 20}
    assert choose_queries(group, 1000) == list(range(205))
    assert rows != list(range(45))


def queries_of(page):
    return re.findall(r'<article class="q".*?</article>', page, flags=re.DOTALL)


def test_a_page_has_each_picture_once_and_no_other(page, emoji):
    rows = choose_queries(emoji.per_query[0].group, 200)
    first = emoji.per_query[0]
    shown = {str(first.reference[row]) for row in rows}
    for arrays in islice(emoji.per_query, METHODS):
        shown |= set(arrays.gallery[arrays.top[rows, :10]].ravel().tolist())
    rules = re.findall(r"\.p(\d+)\{background-image:url\((data:[^)]+)\)\}", page)
    targets = set(first.query[rows].tolist())
    assert [int(number) for number, _ in rules] == list(range(len(shown | targets)))
    assert set(re.findall(r'title="([^"]+)"', page)) == shown | targets
    used = {int(number) for number in re.findall(r'<i class="p(\d+)"', page)}
    assert used == set(range(len(rules)))


def test_frames_ranks_and_similarities_are_the_records(page, emoji):
    rows = choose_queries(emoji.per_query[0].group, 200)
    blocks = queries_of(page)
    assert len(blocks) == 200
    for block, row in list(zip(blocks, rows, strict=True))[::7]:
        best = list(islice(emoji.per_query, METHODS))
        ranks = [int(arrays.first_rank[row]) for arrays in best]
        assert re.search(r'data-ranks="([^"]*)"', block).group(1).split() == list(map(str, ranks))
        written = re.findall(r"at rank ([\d,]+)", block)
        assert written == [f"{rank:,}" for rank in ranks]
        for part, arrays in zip(block.split('class="m"')[1:], best, strict=True):
            items = ITEM.findall(part)
            similarity = [f"{value:.3f}" for value in arrays.similarity[row, :10]]
            assert [bool(hit) for hit, _, _ in items] == arrays.hits[row, :10].tolist()
            assert [name for _, name, _ in items] == arrays.gallery[arrays.top[row, :10]].tolist()
            assert [text for _, _, text in items] == similarity


def test_the_embedded_pictures_are_the_tasks(page, emoji):
    data = load_task_data(emoji, None)
    number = re.search(r'<i class="p(\d+)" role="img" title="([^"]+)"', page)
    uri = re.search(rf"\.p{number.group(1)}\{{background-image:url\((.*?)\)", page).group(1)
    read = {ref.id: ref.read for ref in data.gallery}[number.group(2)]
    assert base64.b64decode(uri.partition(",")[2]) == read()


def test_pictures_and_captions_of_others_are_left_out_unless_asked_for(licensed):
    text = licensed_page(licensed.root, Permission())
    assert "data:image" not in text
    assert "redder" not in text
    assert "--embed-images" in text
    assert "&lt;1&gt;.png" in text
    assert text.count('class="h"') == 2
    text = licensed_page(licensed.root, Permission(embed=True))
    assert text.count("data:image/webp") == 4
    assert "“the same but &lt;b&gt;redder&lt;/b&gt;”" in text
    assert "<b>redder" not in text


def test_a_query_whose_target_nobody_found_says_so(licensed):
    blocks = queries_of(licensed_page(licensed.root, Permission()))
    assert "2 targets, not among the kept ranks" in blocks[2]
    assert "and 1 more target<" in blocks[0]


def test_missing_ranks_are_no_pictures(licensed):
    blocks = queries_of(licensed_page(licensed.root, Permission(embed=True)))
    assert [block.count("<li") for block in blocks] == [2, 2, 1]


def test_other_annotations_than_the_records_are_refused(licensed, monkeypatch):
    changed = SimpleNamespace(gallery=licensed.data.gallery[::-1], queries=licensed.data.queries)
    install(monkeypatch, changed)
    with pytest.raises(CorruptData, match="other annotations"):
        render_files(licensed.root, Permission(embed=True))


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_large_picture_becomes_small_and_a_small_one_stays_as_it_is(picture):
    large = make_thumbnail(ImageRef(id="x", read=lambda: picture(1, 500)))
    assert decoded(large).size == (64, 64)
    small = picture(1, 12)
    kept = make_thumbnail(ImageRef(id="x", read=lambda: small))
    assert kept == f"data:image/png;base64,{base64.b64encode(small).decode()}"


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK"])
def test_pictures_of_every_mode_can_be_shown(mode):
    buffer = io.BytesIO()
    Image.new(mode, (200, 100)).save(buffer, "TIFF")
    assert decoded(make_thumbnail(ImageRef(id="x", read=buffer.getvalue))).size == (64, 32)


@pytest.mark.parametrize(("count", "side"), [(2, 64), (3, 48), (4, 48), (5, 32)])
def test_the_more_pictures_a_page_has_the_smaller_they_are(monkeypatch, picture, count, side):
    monkeypatch.setattr(
        pictures,
        "SIZES",
        [(most, size) for most, (_, size) in zip((2, 4, None), pictures.SIZES, strict=True)],
    )
    album = pictures.Album()
    for i in [*range(count), 0, 1]:
        album.number(ImageRef(id=str(i), read=lambda: picture(1, 300)))
    made = album.thumbnails()
    assert len(made) == count
    assert {decoded(uri).size for uri in made} == {(side, side)}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_of_a_picture_with_a_box_only_the_box_is_shown(kind):
    """As in COCO's object composition; a JPEG must not be scaled before it is cut."""
    whole, buffer = Image.new("RGB", (800, 600)), io.BytesIO()
    whole.paste("red", (400, 200, 700, 300))
    whole.save(buffer, kind)
    ref = ImageRef(id="masked", read=buffer.getvalue, box=(400, 200, 700, 300))
    assert pictures.open_picture(ref).size == (300, 100)
    small = decoded(make_thumbnail(ref))
    assert small.size == (64, 21)
    assert min(red for red, _, _ in np.asarray(small).reshape(-1, 3)) > 200


def test_a_small_picture_is_cut_to_its_box_and_an_empty_box_is_black(picture):
    ref = ImageRef(id="masked", read=lambda: picture(1, 40), box=(10, 10, 30, 20))
    assert decoded(make_thumbnail(ref)).size == (20, 10)
    ref = ImageRef(id="black", read=lambda: picture(1, 40), box=(10, 10, 10, 20))
    assert np.asarray(decoded(make_thumbnail(ref))).max() <= 2  # WebP is not exact
    assert pictures.open_picture(ref).getextrema() == ((0, 0),) * 3


def test_what_is_no_picture_or_not_there_is_named(picture):
    with pytest.raises(CorruptData, match=r"torn\.png"):
        make_thumbnail(ImageRef(id="torn.png", read=lambda: picture(1, 300)[:400]))
    with pytest.raises(CorruptData, match="text"):
        make_thumbnail(ImageRef(id="text", read=lambda: b"hello"))
    with pytest.raises(MissingData, match="--data-root"):
        make_thumbnail(ImageRef(id="gone", read=lambda: Path("/nowhere/x.png").read_bytes()))


def test_a_decompression_bomb_is_refused(monkeypatch, picture):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CorruptData, match="bomb"):
        make_thumbnail(ImageRef(id="bomb", read=lambda: picture(1, 300)))


def test_boards_of_one_task_have_pages_of_their_own(emoji):
    first = SimpleNamespace(task_label="x/y")
    other = SimpleNamespace(first=first, stem="test")
    assert name_galleries([emoji]) == ["gallery-emoji.html"]
    names = name_galleries([emoji, emoji, other])
    assert names[0].startswith("gallery-emoji--test-emoji-")
    assert names[2] == "gallery-x-y.html"


@pytest.fixture
def bench(bench, monkeypatch, tmp_path):
    """The fixture of all tests, beside a copy of the committed records."""
    shutil.copytree(RESULTS / "emoji", tmp_path / "results" / "emoji")
    monkeypatch.chdir(tmp_path)
    return bench


SHOW = ["show", "emoji", "--methods", "pic2word, image-text", "--queries", "noto/1f604,mono/1f606"]


def test_show_draws_a_block_a_query_and_a_line_a_method(bench, tmp_path):
    assert bench(*SHOW, "--out", "two.png") == (0, "two.png\n", "")
    assert bench(*SHOW[:-1], "noto/1f604", "--out", "one.png")[0] == 0
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.format == "PNG"
        assert two.width == one.width > 1500
        assert two.height > 1.8 * one.height


def test_the_figure_frames_exactly_the_targets(emoji, monkeypatch):
    drawn = []
    monkeypatch.setattr(drawing, "render_png", lambda draw_figure: drawn.append(draw_figure) or b"")
    rows = choose_rows(emoji, ["mono/1f604", "mono/1f606"])
    draw_figure(emoji, load_task_data(emoji, None), [0, 1], rows)
    labels = [axes.get_xlabel() for axes in drawn[0].axes if axes.get_xlabel()]
    wanted = [bool(hit) for row in rows for i in (0, 1) for hit in emoji.per_query[i].hits[row, :8]]
    assert ["✓" in label for label in labels] == wanted
    assert sum(wanted) > 0
    thick = [axes.spines["top"].get_linewidth() == 3 for axes in drawn[0].axes if axes.get_xlabel()]
    assert thick == wanted


def test_the_figure_has_the_same_bytes_each_time(emoji):
    data = load_task_data(emoji, None)
    assert draw_figure(emoji, data, [0], [0]) == draw_figure(emoji, data, [0], [0])


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (
            ["--methods", "pic2wrod"],
            2,
            "known: artemis, cirplant, combiner, image-only, image-text, lincir, maaf, pic2word",
        ),
        (["--queries", "noto/1f60"], 2, "noto/1f60"),
        (["--queries", ","], 2, "--queries must be names"),
        (["--out", "figure.pdf"], 2, ".png"),
        (["--split", "val"], 3, "emoji · test"),
    ],
)
def test_mistakes_of_show_are_named(bench, change, code, said):
    got, _, error = bench(*SHOW, "--out", "f.png", *change)
    assert got == code
    assert said in error
    assert not Path("f.png").exists()


def test_several_boards_or_records_of_one_name_must_be_told_apart(emoji):
    with pytest.raises(UsageError, match="--split"):
        choose_board([emoji, emoji], "emoji", None, None)
    twins = SimpleNamespace(records=(emoji.records[0],) * 2, title="t")
    with pytest.raises(UsageError, match="several records"):
        choose_records(twins, [emoji.records[0].cell.method])
    assert choose_records(emoji, [emoji.records[2].path.stem]) == [2]
