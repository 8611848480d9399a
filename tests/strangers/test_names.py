"""Names that strangers give: markup, formulas, escapes and paths stay names in every output."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from editing import put, sign

HOSTILE = {
    "HTML": "<script>alert(1)</script>",
    "a link": "[click](https://example.com)",
    "an image": "![x](https://example.com/x.png)",
    "a table's line": "a|b|c",
    "code": "`rm -rf`",
    "a formula": '=HYPERLINK("https://example.com")',
    "a plus": "+1+1",
    "an at sign": "@SUM(A1)",
    "TeX": "\\input{/etc/passwd} $x^2$ %",
    "an escape": "\x1b[31mred\x1b[0m",
    "a line break": "a\n\n# title",
    "right to left": "a\u202eb",
    "mathtext": "$\\frac{$",
    "a path": "../../outside",
    "an absolute path": "/tmp/outside",
    "long": "x" * 400,
}


def list_outside(folder):
    """Everything but the results and the user's cache, whose names are digests."""
    return {path for path in folder.rglob("*") if not {"work", "cache"} & {*path.parts}}


@pytest.mark.parametrize(
    "fields", [("cell.method", "cell.backbone", "protocol.name"), ("cell.split",)], ids=len
)
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_name_stays_a_name(results, bench, tmp_path, case, fields):
    for path in results.glob("*.json"):
        for field in fields:
            put(field, HOSTILE[case] + (path.name[0] if field == "cell.method" else ""))(path)
        sign(path)
    outside = list_outside(tmp_path)
    for command in (("leaderboard",), ("report",)):
        code, out, err = bench(*command)
        unknown_split = command == ("report",) and fields == ("cell.split",)
        assert code == (4 if unknown_split else 0), err
        assert "\x1b" not in out
    assert list_outside(tmp_path) == outside
    assert all("results" in path.parts for path in Path().rglob("*") if path.is_file())
    text = Path("results/leaderboard.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "\n# title" not in text
    assert "\x1b" not in text
    assert "](https://example.com" not in text.replace("\\]", "")
    for path in Path("results/report").rglob("*.csv"):
        content = path.read_text(encoding="utf-8")
        cells = [cell for row in csv.reader(io.StringIO(content)) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "@", "+1+"))]
    for path in Path("results/report").rglob("*.html"):
        assert "<script>alert" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_name_does_not_reach_the_terminal(results, bench, case):
    for path in results.glob("*.json"):
        put("cell.backbone", HOSTILE[case])(path)
    code, out, err = bench("compare", "image-only", "text-only")
    assert code == 0, err
    assert "\x1b" not in out
    assert json.loads(bench("compare", "image-only", "text-only", "--json")[1])
