"""The report and a gallery in Chromium, opened from disk: they work, and reach for nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from browsing import LOOKS, barriers, fits, keep_screenshot
from places import ROOT

from cirbench.benchmark.analysis.boards import read_boards
from cirbench.benchmark.analysis.composition import find_pool
from cirbench.benchmark.records.record import read_records, write_record
from cirbench.benchmark.report.gallery import METHODS, choose_queries, sort_queries
from cirbench.benchmark.report.pictures import Permission
from cirbench.benchmark.report.write import write

TABLES = 4
"""Of a board: two averages, the groups, and the composition audit."""

pytestmark = pytest.mark.browser

HOSTILE = '<img src="http://elsewhere.example/x.png" onerror="document.title=1">'
"""A method's name that a page must show and never obey."""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The committed records with their report; the combiner's goes by a hostile name."""
    root = tmp_path_factory.mktemp("results")
    others = shutil.ignore_patterns("combiner--*")
    shutil.copytree(ROOT / "results" / "emoji", root / "emoji", ignore=others)
    records = read_records(ROOT / "results")
    renamed = next(r for r in records if r.cell.method == "combiner")
    hostile = replace(renamed, cell=replace(renamed.cell, method=HOSTILE))
    write_record(root, hostile, renamed.read_per_query())
    write(root, Permission())
    return root


@pytest.fixture
def opened(visited, results):
    """Opens a page of the report."""
    return lambda name, **options: visited((results / "report" / name).as_uri(), **options)


@pytest.fixture(scope="module")
def board(results):
    [found] = read_boards(results)
    return found


def column(page, index):
    """The texts of one column of the first table, from top to bottom."""
    cells = page.locator("table").first.locator(f"tbody tr > :nth-child({index + 1})")
    return [text.split()[0] for text in cells.all_inner_texts()]


def headers(page):
    return page.locator("table").first.locator("thead th")


def test_a_click_sorts_a_column_and_another_turns_it_round(opened):
    page = opened("index.html")
    head = headers(page).nth(4)
    assert head.inner_text().strip() == "R@1"
    head.get_by_role("button").click()
    values = [float(text) for text in column(page, 4)]
    assert head.get_attribute("aria-sort") == "descending"
    assert values == sorted(values, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(page, 4)] == sorted(values)


def test_the_keyboard_sorts_names_and_only_one_column_says_so(opened, board):
    page = opened("index.html")
    headers(page).nth(4).get_by_role("button").press("Enter")
    headers(page).nth(0).get_by_role("button").press("Enter")
    assert page.locator("table").first.locator("th[aria-sort]").count() == 1
    methods = sorted(record.cell.method for record in board.records)
    assert [name for name in column(page, 0) if "<" not in name] == [
        name for name in methods if "<" not in name
    ]


def test_the_filter_leaves_the_rows_that_contain_the_text(opened, board):
    page, all_rows = opened("index.html"), TABLES * len(board.records)
    page.get_by_label("Show only rows that contain").fill("IMAGE-TEXT")
    rows = page.locator("tbody tr:visible")
    assert rows.count() == page.locator("table").count()
    assert all("image-text" in text for text in rows.all_inner_texts())
    assert page.locator("#count").inner_text() == f"{rows.count()} of {all_rows} rows"
    page.get_by_label("Show only rows that contain").fill("")
    assert page.locator("tbody tr:visible").count() == all_rows


def test_a_hostile_name_is_text(opened):
    for name in ("index.html", "gallery-emoji.html"):
        page = opened(name)
        assert page.title() != "1"
        assert page.locator("img").count() == 0
        assert HOSTILE in page.locator("main").inner_text()


def test_the_skip_link_is_the_first_stop_and_leads_to_the_content(opened):
    page = opened("index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_provenance_opens(opened):
    page = opened("index.html")
    assert not page.get_by_text("annotations fingerprint").first.is_visible()
    page.locator("summary").first.click()
    assert page.get_by_text("annotations fingerprint").first.is_visible()


def expected(board, finds, misses, within):
    """How many of the page's queries one record finds and another does not."""
    rows = choose_queries(board.per_query[0].group, 200)
    first, second = (board.per_query[i].first_rank[rows] for i in (finds, misses))
    return int(((first <= within) & (second > within)).sum())


@pytest.mark.parametrize("within", [1, 10, 50])
def test_the_gallery_shows_what_one_method_finds_and_another_misses(opened, board, within):
    page = opened("gallery-emoji.html")
    page.get_by_label("Found by").select_option("0")
    page.get_by_label("and missed by").select_option("3")
    page.get_by_label("within the first").select_option(str(within))
    wanted = expected(board, 0, 3, within)
    assert 0 < wanted < 200
    assert page.locator(".q:visible").count() == wanted
    assert page.locator("#count").inner_text() == f"{wanted} of 200 queries"


def test_the_gallery_filters_by_group_orders_by_rank_and_forgets(opened, board):
    page = opened("gallery-emoji.html")
    page.get_by_label("Group").select_option("noto")
    assert page.locator(".q:visible").count() == 50
    page.get_by_label("Order by").select_option("2")
    ranks = [
        int(query.get_attribute("data-ranks").split()[2])
        for query in page.locator(".q:visible").all()
    ]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) > 10
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.getElementById('count').textContent.startsWith('200')")
    rows = choose_queries(board.per_query[0].group, 200)
    assert page.locator(".q h2").all_text_contents() == board.per_query[0].query[rows].tolist()


@pytest.mark.parametrize(
    ("value", "wanted"), [("image", {"image"}), ("composition nothing", {"composition", "nothing"})]
)
def test_the_gallery_shows_what_the_audit_says_of_a_query(opened, board, value, wanted):
    page = opened("gallery-emoji.html")
    page.get_by_label("Shortcuts (first 10)").select_option(value)
    rows = choose_queries(board.queries.group, 200)
    kept = [name in wanted for name in sort_queries(find_pool(board))[rows].tolist()]
    assert 0 < sum(kept) < 200
    assert page.locator(".q:visible").count() == sum(kept)
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.getElementById('count').textContent.startsWith('200')")


def test_without_javascript_everything_is_there_and_no_dead_control(opened, board):
    page = opened("index.html", java_script_enabled=False)
    assert page.locator("tbody tr:visible").count() == TABLES * len(board.records)
    assert page.locator("input:visible, button:visible").count() == 0
    assert page.locator("figure svg[role=img]:visible").count() == 3
    page = opened("gallery-emoji.html", java_script_enabled=False)
    assert page.locator(".q:visible").count() == 200
    assert page.locator("select:visible, button:visible").count() == 0


def test_the_gallery_is_small_and_loads_in_a_second(opened, results):
    assert (results / "report" / "gallery-emoji.html").stat().st_size < 5e6
    page = opened("gallery-emoji.html")
    times = []
    for _ in range(4):
        page.reload(wait_until="load")
        times.append(page.evaluate("performance.getEntriesByType('navigation')[0].duration"))
    assert page.locator(".m").count() == 200 * METHODS
    assert min(times) <= 1000  # ms; the least, since the machine may have other work


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "gallery-emoji.html"])
def test_axe_finds_no_barrier(opened, name, scheme):
    page = opened(name, color_scheme=scheme, reduced_motion="reduce")
    page.evaluate("for (const q of document.querySelectorAll('.q:nth-child(n+5)')) q.remove()")
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    assert barriers(page) == []


@pytest.mark.parametrize("name", ["index.html", "gallery-emoji.html"])
@pytest.mark.parametrize("look", LOOKS)
def test_it_fits_the_screen_and_its_picture_is_kept(opened, name, look):
    page = opened(name, **LOOKS[look])
    assert fits(page)
    colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert colour == ("rgb(15, 19, 24)" if look == "dark" else "rgb(255, 255, 255)")
    keep_screenshot(page, f"{Path(name).stem}-{look}", whole=name == "index.html")


def test_the_committed_tables_fit_a_small_laptop(visited):
    page = visited(
        (ROOT / "results/report/index.html").as_uri(), viewport={"width": 1280, "height": 800}
    )
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    assert page.evaluate(f"{cut}.length") == 0
    assert page.locator("tbody th", has_text="image-text").first.bounding_box()["height"] < 50
