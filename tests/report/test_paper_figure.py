"""bench figure: the papers' bar charts, of any task's records."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from making import make_body, make_cell
from matplotlib.colors import to_hex
from PIL import Image
from places import ROOT

from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.fields import ArraysFile, MethodFacts
from cirbench.benchmark.records.record import Record, read_records
from cirbench.benchmark.report.paper_figure import FIGURES, draw_paper_figure
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.datasets.cirr import PIC2WORD
from cirbench.datasets.imagenet_r import DOMAINS, PROTOCOL


@pytest.fixture
def results(tmp_path):
    """The committed records of emoji, as a results folder of their own."""
    shutil.copytree(ROOT / "results" / "emoji", tmp_path / "results" / "emoji")
    return tmp_path / "results"


def make_record(method, values, protocol=PROTOCOL, groups=DOMAINS, zero_shot=True, **cell):
    """A record of group or average → metric → value, each with an interval of ± 1 point."""
    metrics = {
        group: {m: Interval(value=v, low=v - 1, high=v + 1, n=9) for m, v in of_group.items()}
        for group, of_group in values.items()
    }
    names = {"method": method, "task": "imagenet-r", **cell}
    facts = MethodFacts(zero_shot=zero_shot, remarks=())
    body = make_body(make_cell(protocol, **names), protocol, metrics, groups, method=facts)
    path = body.home
    return Record(path=path, per_query=ArraysFile(file="a.npz", sha256=""), **vars(body))


def by_domain(*values):
    return {name: {"R@10": v} for name, v in zip([*DOMAINS, "average"], values, strict=True)}


def draw(name, *records):
    return draw_paper_figure(Board(records=tuple(records)), FIGURES[name])


def read_bars(figure):
    """Of each panel: a row's name → its bar's length and colour."""
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    return [
        {
            name: (bar.get_width(), to_hex(bar.get_facecolor()))
            for name, bar in zip(names, axes.patches, strict=True)
        }
        for axes in figure.axes
    ]


def test_a_panel_is_a_domain_and_a_bar_a_method_in_the_shade_of_its_kind():
    figure = draw(
        "domain-conversion",
        make_record("maaf", by_domain(9, 8, 7, 6, 7.5), zero_shot=False, trained_on="CIRR"),
        make_record("text-only", by_domain(1, 2, 3, 4, 2.5)),
        make_record("image-only", by_domain(0, 0, 1, 0, 0.25)),
    )
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == [*DOMAINS, "average"]
    bars = read_bars(figure)
    assert list(bars[0]) == ["text-only", "image-only", "maaf (CIRR)"]  # zero-shot first
    assert [bars[i]["text-only"][0] for i in range(5)] == [1, 2, 3, 4, 2.5]
    shades = {name: shade for name, (_, shade) in bars[0].items()}
    assert shades["text-only"] == shades["image-only"] != shades["maaf (CIRR)"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["zero-shot", "supervised, trained on triplets"]


def test_cirr_is_drawn_by_recall_at_every_k():
    metrics = ("R@1", "R@5", "R@10", "R@50", "R@100")
    values = {"average": dict(zip(metrics, (20, 50, 60, 80, 90), strict=True))}
    values["average"] |= {"Rs@1": 55, "(R@5+Rs@1)/2": 52.5}
    record = make_record("text-only", values, PIC2WORD, ["all"], task="cirr", split="val")
    figure = draw("cirr", record)
    assert [axes.get_title() for axes in figure.axes] == list(metrics)
    assert [bars["text-only"][0] for bars in read_bars(figure)] == [20, 50, 60, 80, 90]


def test_published_numbers_are_marks_on_the_bars_they_belong_to():
    values = by_domain(8, 14, 9, 9, 10)
    figure = draw(
        "domain-conversion",
        make_record("pic2word", values, backbone="ViT-B-32/openai"),  # nobody printed it
        make_record("pic2word", values, backbone="ViT-L-14/openai"),
    )
    marks = [
        [*line.get_xdata(), *line.get_ydata()]
        for axes in figure.axes
        for line in axes.lines
        if line.get_marker() == "D"
    ]
    assert marks == [[8.0, 1], [13.5, 1], [8.7, 1], [10.0, 1], [10.1, 1]]  # the CSV's R@10
    assert figure.legends[0].get_texts()[-1].get_text() == "published"


def test_both_files_are_written_and_say_what_they_show(results, bench):
    code, out, err = bench("figure", "domain-conversion", "--output", results)
    assert code == 0, err
    svg, png = map(Path, out.split())
    assert (svg, png) == tuple(
        results / "figures" / f"domain-conversion{ending}" for ending in (".svg", ".png")
    )
    text = svg.read_text(encoding="utf-8")
    assert f"data {Board(records=tuple(read_board(results))).digest}" in text
    for record in read_records(results):
        assert f"{record.metrics['average']['R@10'].value:.1f}" in text
    with Image.open(png) as picture:
        assert picture.format == "PNG"


def read_board(results):
    records = list(read_records(results))
    return sorted(records, key=lambda r: -r.metrics["average"]["R@10"].value)


def test_the_same_records_give_the_same_bytes(results, bench, tmp_path):
    for name in ("a", "b"):
        bench("figure", "cirr", "-t", "emoji", "-o", results, "--out", tmp_path / f"{name}.svg")
    for ending in (".svg", ".png"):
        first, second = ((tmp_path / f"{name}{ending}").read_bytes() for name in ("a", "b"))
        assert first == second


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["coco"], 2, "unknown figure 'coco'; known: domain-conversion, fashion-iq, cirr"),
        (["domain-conversions"], 2, "did you mean domain-conversion?"),
        (["fashion-iq"], 3, "no records of fashion-iq or a task like it; choose by --task: emoji"),
        (["fashion-iq", "--task", "wardrobe"], 3, "no records of that task"),
        (["cirr", "--task", "emoji", "--split", "val"], 3, "no records of that task, split"),
    ],
)
def test_what_cannot_be_drawn_is_said_and_nothing_is_written(results, bench, arguments, code, says):
    found, _, err = bench("figure", *arguments, "--output", results)
    assert (found, (results / "figures").exists()) == (code, False)
    assert says in err


def test_a_task_of_one_group_is_not_drawn_by_group():
    record = make_record("m", {"average": {"R@1": 5}}, PIC2WORD, ["all"], task="cirr")
    with pytest.raises(UsageError, match=r"needs several groups, and cirr .* has one"):
        draw("domain-conversion", record)


def rename_task(folder, name):
    """The records of emoji once more, as another task's."""
    shutil.copytree(folder / "emoji", folder / name)
    for path in (folder / name).glob("*.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"task": "emoji"', f'"task": "{name}"'), encoding="utf-8")


def test_the_figures_own_task_goes_before_one_that_follows_it(results, bench):
    rename_task(results, "imagenet-r")
    code, out, err = bench("figure", "domain-conversion", "--output", results)
    assert code == 0, err
    assert "imagenet-r · test" in Path(out.split()[0]).read_text(encoding="utf-8")


def test_among_several_tasks_that_follow_it_a_person_chooses(results, bench, monkeypatch):
    rename_task(results, "other")
    alike = SimpleNamespace(follows="fashion-iq")
    monkeypatch.setattr("cirbench.benchmark.report.paper_figure.find_task", lambda name: alike)
    code, _, err = bench("figure", "fashion-iq", "--output", results)
    assert (code, "emoji and other have records; choose one by --task" in err) == (2, True)
