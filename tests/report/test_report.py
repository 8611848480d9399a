"""The report: what its page, CSV and LaTeX say, that names stay text, and that bytes repeat."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import make_body, make_cell, make_counts, make_run
from places import ROOT

from cirbench.benchmark.analysis.board_statistics import Standing, choose_ks, compute_statistics
from cirbench.benchmark.analysis.boards import read_boards
from cirbench.benchmark.analysis.published import Published, verify
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.fields import MethodFacts, slug
from cirbench.benchmark.records.record import label_records, write_record
from cirbench.benchmark.report import charts
from cirbench.benchmark.report import write as writing
from cirbench.benchmark.report.export import as_csv, as_latex
from cirbench.benchmark.report.pictures import Permission
from cirbench.benchmark.report.tables import MeasuredDifference, Table, make_report_tables
from cirbench.benchmark.report.write import find_stale, render_files, write
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.scoring.metrics import find_hits, parse_metric
from cirbench.benchmark.scoring.summary import summarise

STYLE = ROOT / "benchmark" / "report" / "templates" / "style.css"
GROUPS = ("cartoon", "toy")
PROTOCOL = EvaluationProtocol(
    name="plain",
    version=1,
    gallery="everything",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "a {x}"},
    metrics=("R@1", "R@2"),
    headline="R@2",
    averages={"average without toy": ("cartoon",)},
)


def store(root, method, skill, protocol=PROTOCOL, queries="q", zero_shot=True, **cell):
    """40 references × 2 groups; the same draws decide for every method, so that skills nest."""
    found = np.random.default_rng(0).random(80) < skill
    top = np.where(found[:, None], [[0, 1]], [[2, 1]]).astype(np.int32)
    hits, counts = find_hits(top, [(0,)] * 80), np.ones(80, dtype=np.int64)
    values = [parse_metric(m).per_query(hits, counts) for m in protocol.metrics]
    arrays = PerQuery(
        query=np.array([f"{queries}{i}" for i in range(80)]),
        reference=np.array([f"r{i % 40}" for i in range(80)]),
        group=np.repeat(GROUPS, 40),
        gallery=np.array(["a", "b", "c"]),
        top=top,
        similarity=top.astype(np.float32),
        hits=hits,
        positives=counts,
        first_rank=np.where(found, 1, 3),
        tied=np.zeros(80, dtype=bool),
        metrics=np.array(protocol.metrics),
        values=np.stack(values, axis=1),
    )
    metrics = summarise(arrays, GROUPS, protocol)
    identity = make_cell(protocol, method=method, **cell)
    parts = {
        "method": MethodFacts(zero_shot=zero_shot, remarks=()),
        "counts": make_counts(80, 40, 3),
        "run": make_run(seconds={"compose": skill, "rank": 0.1}),
    }
    return write_record(root, make_body(identity, protocol, metrics, GROUPS, **parts), arrays)


def page(root):
    return render_files(root, Permission())[Path("report/index.html")]


def tables(root, published=()):
    [board] = read_boards(root)
    found = [v for v in verify(published, board.records) if v.measured is not None]
    return make_report_tables(board, compute_statistics(board), found)


@pytest.fixture
def three(tmp_path):
    """The best, one that its interval can't tell from it, and one that is plainly worse."""
    store(tmp_path, "good", 0.80, trained_on="CC3M")
    store(tmp_path, "near & <dear>", 0.78)
    store(tmp_path, "bad", 0.3)
    return tmp_path


def read_expected(name):
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def test_the_page_is_the_golden_one(three):
    main_part = re.search(r"<main.*</main>\n", page(three), flags=re.DOTALL).group()
    assert main_part == read_expected("report.html")


def test_the_tables_are_the_golden_ones(three):
    text = "".join(as_csv(table) + "\n" for table in tables(three))
    assert text == read_expected("report.csv")
    text = "".join(as_latex(table) + "\n" for table in tables(three))
    assert text == read_expected("report.tex")


def test_tied_is_what_the_paired_interval_does_not_tell_from_the_best(three):
    [board] = read_boards(three)
    shown = compute_statistics(board)
    good, near, bad = shown.scores["average", "R@2"]
    assert (good.best, good.tied) == (True, False)
    assert (near.best, near.tied) == (False, True)
    assert near.difference.value < 0 == near.difference.high
    assert (bad.best, bad.tied) == (False, False)
    assert bad.difference.high < 0
    assert [s.difference for s in (good, near, bad)] == board.differences("average")


@pytest.mark.parametrize(
    ("low", "high", "tied"),
    [(-1.0, 1.0, True), (-1.0, 0.0, True), (-2.0, -0.1, False)],
)
def test_an_interval_that_touches_zero_ties(low, high, tied):
    interval = Interval(value=-0.5, low=low, high=high, n=10)
    assert Standing(value=interval, difference=interval, best=False).tied == tied
    assert not Standing(value=interval, difference=interval, best=True).tied


def test_each_table_is_ranked_by_its_own_average(tmp_path):
    store(tmp_path, "better on all", 0.70)
    store(tmp_path, "second", 0.60)
    [first, second, *_] = tables(tmp_path)
    for table in (first, second):
        values = [row[table.headers.index("R@2")].interval.value for row in table.rows]
        assert values == sorted(values, reverse=True)
        assert isinstance(table.rows[0][-1], MeasuredDifference)
        assert table.rows[0][-1].best


def test_curves_end_in_the_recall_at_the_greatest_k(three):
    [board] = read_boards(three)
    shown = compute_statistics(board)
    assert shown.curves.at == (1, 2)
    for i, curve in enumerate(shown.curves.values):
        score = shown.scores["average", "R@2"][i].value
        assert (curve[-1].value, curve[-1].low, curve[-1].high) == pytest.approx(
            (score.value, score.low, score.high)
        )


@pytest.mark.parametrize("depth", [1, 2, 50, 200, 10_000])
def test_the_curves_ks_go_from_one_to_the_depth(depth):
    ks = choose_ks(depth)
    assert ks[0] == 1
    assert ks[-1] == depth
    assert ks == sorted(set(ks))
    assert len(ks) <= 24


HOSTILE = '</script><script>alert("x")</script>&{{ 7*7 }}'


def test_names_are_text_wherever_they_stand(tmp_path):
    protocol = replace(PROTOCOL, gallery=HOSTILE, name=HOSTILE)
    store(tmp_path, HOSTILE, 0.8, protocol, trained_on=HOSTILE, backbone=HOSTILE, queries=HOSTILE)
    pages = [
        text
        for path, text in render_files(tmp_path, Permission()).items()
        if path.suffix == ".html"
    ]
    for text in pages:
        assert "&lt;script&gt;alert" in text
        assert "<script>alert" not in text
        assert "{{ 7*7 }}" in text
        assert text.count("</script>") == 1


def test_latex_has_as_many_columns_as_it_says_and_no_loose_character(three):
    for table in tables(three):
        text = as_latex(table)
        columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text).group(1))
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
        assert len(body) == len(table.rows)
        for line in body:
            assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
            assert line.endswith(r" \\")
            assert "<" not in line


def test_latex_escapes_what_latex_reads():
    table = Table(
        stem="t_1",
        title=r"$x_1$ \ {a}",
        board="50 %",
        headers=("#",),
        names=1,
        rows=(("a~b^c&d",),),
    )
    text = as_latex(table)
    assert r"\caption{50 \%: \$x\_1\$ \textbackslash{} \{a\}}" in text
    assert r"a\textasciitilde{}b\textasciicircum{}c\&d \\" in text
    assert r"\label{tab:t-1}" in text


def test_csv_reads_back_as_the_values(three):
    [board] = read_boards(three)
    rows = list(csv.DictReader(io.StringIO(as_csv(tables(three)[0]))))
    assert [row["method"] for row in rows] == ["good", "near & <dear>", "bad"]
    assert [row["R@2 standing"] for row in rows] == ["best", "tied", ""]
    for row, record in zip(rows, board.records, strict=True):
        kept = record.metrics["average"]["R@2"]
        read = [float(row[f"R@2{end}"]) for end in ("", " low", " high")]
        assert read == pytest.approx([kept.value, kept.low, kept.high], abs=1e-4)


def test_published_numbers_stand_in_a_table_and_a_scatter(tmp_path, monkeypatch):
    protocol = replace(PROTOCOL, name="pic2word")
    store(tmp_path, "pic2word", 0.8, protocol, backbone="ViT-L-14/openai")
    printed = {
        "method": "pic2word",
        "variant": "",
        "protocol": "pic2word",
        "backbone": "ViT-L-14/openai",
        "task": "shapes",
        "split": "test",
        "group": "toy",
        "metric": "R@2",
        "source": "a <paper>",
        "confirmed": "yes",
    }
    rows = [Published(**printed, value="80.0"), Published(**printed, value="79.0")]
    monkeypatch.setattr(writing, "read_published", lambda: rows)
    text = page(tmp_path)
    assert "1 reproduced, 1 differs, 0 not run" in text
    assert "Measured against published" in text
    assert text.count('class="cross"') == 1
    assert "a &lt;paper&gt;" in text
    published = tables(tmp_path, rows)[-1]
    assert [row[6] for row in published.rows] == ["reproduced", "differs"]


def test_the_page_needs_nothing_from_elsewhere(three):
    for text in render_files(three, Permission()).values():
        assert not re.search(
            r"""(src|href|action)=["']?(https?:)?//|@import|url\((?!data:)""", text
        )


def test_links_lead_to_files_that_are_there(three):
    write(three, Permission())
    folder = three / "report"
    for source in folder.glob("*.html"):
        for link in re.findall(r'href="([^"#:]+)"', source.read_text(encoding="utf-8")):
            assert (folder / link).is_file(), link


def test_the_same_records_give_the_same_bytes(three):
    assert render_files(three, Permission()) == render_files(three, Permission())


def test_records_of_one_method_have_names_of_their_own(tmp_path):
    for seed in (0, 1):
        store(tmp_path, "a", 0.5, seed=seed)
    store(tmp_path, "a", 0.5, checkpoint="f" * 64)
    store(tmp_path, "b", 0.5)
    [board] = read_boards(tmp_path)
    assert sorted(label_records(board.records)) == [
        "a, seed 0, weights ffffffff",
        "a, seed 0, weights none",
        "a, seed 1",
        "b",
    ]


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", "...", '"><b>'])
def test_a_slug_is_one_safe_file_name(name):
    assert re.fullmatch(r"[\w][\w.-]*", slug(name))


@pytest.mark.parametrize("top", [0, 0.03, 0.9, 1, 7, 42.5, 61, 99.9, 100, 12345])
def test_ticks_reach_the_top_in_few_round_steps(top):
    ticks = charts.round_ticks(top)
    assert ticks[0] == 0
    assert ticks[-1] >= top * (1 - 1e-9)
    assert 2 <= len(ticks) <= 7
    assert np.allclose(np.diff(ticks), ticks[1])


def test_nine_methods_make_eight_bars_a_group_and_a_note(tmp_path):
    for i in range(9):
        store(tmp_path, f"m{i}", 0.1 * i)
    [board] = read_boards(tmp_path)
    chart = charts.make_bars(board, label_records(board.records))
    assert len(chart.bars) == 8 * (len(GROUPS) + 1)
    assert chart.note == "The best 8 of 9 records."
    assert all(charts.LEFT <= bar.x < bar.x + bar.width <= charts.WIDTH for bar in chart.bars)
    assert all(charts.TOP <= bar.y <= charts.HEIGHT - charts.BOTTOM for bar in chart.bars)
    cost = charts.make_cost(board, compute_statistics(board), label_records(board.records))
    assert [dot.letter for dot in cost.dots] == [*"ABCDEFGH", ""]


def test_bars_of_supervised_methods_have_lines(tmp_path):
    store(tmp_path, "seen", 0.8, zero_shot=False)
    store(tmp_path, "unseen", 0.5)
    [board] = read_boards(tmp_path)
    chart = charts.make_bars(board, label_records(board.records))
    assert chart.lined == (0,)
    assert "supervised" in chart.note
    text = page(tmp_path)
    [pattern] = re.findall(r'<pattern id="([^"]+)"', text)
    lined = text.count(f'<rect fill="url(#{pattern})" class="lined"')
    assert lined == len(chart.bars) / 2 + 1, "one record's bars, and its key"


def test_a_bars_height_is_its_value(three):
    [board] = read_boards(three)
    shown = compute_statistics(board)
    chart = charts.make_bars(board, label_records(board.records))
    zero, top = chart.y_ticks[0], chart.y_ticks[-1]
    unit = (zero.at - top.at) / float(top.text)
    wanted = [s.value.value for g in (*GROUPS, "average") for s in shown.scores[g, "R@2"]]
    assert [bar.height / unit for bar in chart.bars] == pytest.approx(wanted)


def test_times_that_were_not_kept_leave_the_cost_out(three):
    for path in three.glob("shapes/*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        data["run"]["seconds"] = {}
        path.write_text(json.dumps(data), encoding="utf-8")
    assert "Cost against" not in page(three)


def contrast(first, second):
    """WCAG 2.2's ratio of two colours like #0072b2."""

    def luminance(colour):
        values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_stand_out_from_the_ground_in_both_themes(theme):
    block = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), flags=re.DOTALL)[
        theme
    ]
    found = re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", block)
    colours = {name: c if len(c) == 7 else f"#{c[1] * 2}{c[2] * 2}{c[3] * 2}" for name, c in found}
    for name in ("fg", "dim", "link"):
        assert contrast(colours[name], colours["bg"]) >= 4.5, name
        assert contrast(colours[name], colours["soft"]) >= 4.5, name
    for i in range(9):
        assert contrast(colours[f"s{i}"], colours["bg"]) >= 3, i
    assert contrast(colours["hit"], colours["hit-soft"]) >= 4.5


def test_stale_names_what_is_old_missing_or_left_over(three):
    assert len(find_stale(three, Permission())) == 8
    write(three, Permission())
    assert find_stale(three, Permission()) == []
    (three / "report" / "index.html").write_text("old", encoding="utf-8")
    next(three.glob("report/tables/*.csv")).unlink()
    extra = three / "report" / "gallery-gone.html"
    extra.write_text("", encoding="utf-8")
    mine = three / "report" / "notes.txt"
    mine.write_text("", encoding="utf-8")
    assert {path.suffix for path in find_stale(three, Permission())} == {".html", ".csv"}
    assert len(find_stale(three, Permission())) == 3
    write(three, Permission())
    assert find_stale(three, Permission()) == []
    assert not extra.exists()
    assert mine.exists()


def test_the_command_writes_and_checks(bench, three):
    code, _, error = bench("report", "--check", "-o", three)
    assert code == 1
    assert "bench report writes them" in error
    code, out, _ = bench("report", "-o", three)
    assert code == 0
    assert all(Path(line).is_file() for line in out.splitlines())
    assert bench("report", "--check", "-o", three)[0] == 0
    next(three.glob("shapes/*.npz")).unlink()
    code, _, error = bench("report", "--check", "-o", three)
    assert code == 4
    assert ".npz" in error


def test_no_record_an_old_one_and_one_of_other_queries_are_refused(tmp_path):
    with pytest.raises(MissingData, match="bench run"):
        render_files(tmp_path, Permission())
    store(tmp_path, "a", 0.5)
    record = store(tmp_path, "b", 0.5, queries="other")
    with pytest.raises(CorruptData, match="must have the same queries"):
        render_files(tmp_path, Permission())
    record.path.write_text(json.dumps({**record.to_json(), "schema": 0}), encoding="utf-8")
    with pytest.raises(CorruptData, match="schema"):
        render_files(tmp_path, Permission())
