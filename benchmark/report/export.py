"""Tables as CSV and as LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from cirbench.benchmark.analysis.board_statistics import Score
from cirbench.benchmark.report.tables import (
    Difference,
    Table,
    Value,
    interval_text,
    signed_interval_text,
)
from cirbench.benchmark.runtime.paths import to_line

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "–": "--",
        "·": r"$\cdot$",
        "\n": " ",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


def as_csv(table: Table) -> str:
    """A score takes four columns: value, low, high, and whether it is best or tied with the best.

    A difference takes three. Numbers have four decimals.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    kinds = table.rows[0] if table.rows else ()
    writer.writerow(
        [name for h, v in zip(table.headers, kinds, strict=True) for name in _columns(h, v)]
    )
    writer.writerows([field for value in row for field in _fields(value)] for row in table.rows)
    return buffer.getvalue()


def _columns(header: str, value: Value) -> list[str]:
    match value:
        case Score():
            return [header, f"{header} low", f"{header} high", f"{header} standing"]
        case Difference():
            return [header, f"{header} low", f"{header} high"]
        case _:
            return [header]


def _fields(value: Value) -> list[str]:
    match value:
        case Score(value=v):
            return [*(f"{x:.4f}" for x in (v.value, v.low, v.high)), standing(value)]
        case Difference(score=Score(difference=d)):
            return [f"{x:.4f}" for x in (d.value, d.low, d.high)]
        case float():
            return [f"{value:.4f}"]
        case _:
            return [_as_text(value)]


def _as_text(value: str) -> str:
    """A stranger's name that no spreadsheet takes for a formula."""
    plain = to_line(value)
    return f"'{plain}" if plain.startswith(("=", "+", "-", "@")) else plain


def standing(score: Score) -> str:
    """`best`, `tied` or nothing."""
    return "best" if score.best else "tied" if score.tied else ""


def as_latex(table: Table) -> str:
    """A floating table for `\\usepackage{booktabs}`; the best is bold, what ties with it has ≈."""
    alignment = "l" * table.names + "".join(
        "l" if isinstance(value, str) else "r" for value in (table.rows or ((),))[0][table.names :]
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(table.caption)}}}",
            rf"\label{{tab:{table.stem.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            _line(table.headers),
            r"\midrule",
            *_lines(table),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _lines(table: Table) -> Iterator[str]:
    for row in table.rows:
        yield _line(row)


def _line(row: tuple[Value, ...]) -> str:
    return " & ".join(map(_latex, row)) + r" \\"


def _latex(value: Value) -> str:
    match value:
        case Score(value=v):
            number = rf"\textbf{{{v.value:.1f}}}" if value.best else f"{v.value:.1f}"
            return f"{number} {{\\scriptsize {interval_text(v)}}}" + r"$^\approx$" * value.tied
        case Difference(score=Score(best=True)):
            return "--"
        case Difference(score=Score(difference=d)):
            return f"${d.value:+.1f}$ {{\\scriptsize ${signed_interval_text(d)}$}}"
        case float():
            return f"{value:.2f}"
        case _:
            return _escaped(value)


def _escaped(text: str) -> str:
    return to_line(text).translate(_LATEX)
