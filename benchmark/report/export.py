"""Tables as markdown, as CSV and as LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from tabulate import tabulate

from cirbench.benchmark.report.tables import (
    Change,
    Difference,
    Measured,
    Table,
    Value,
    interval_text,
    is_number,
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


def as_markdown(table: Table) -> str:
    """A pipe table; the best is bold."""
    first = table.rows[0] if table.rows else ()
    return str(
        tabulate(
            [[_markdown(value) for value in row] for row in table.rows],
            [escape_markdown(header) for header in table.headers],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=["right" if is_number(value) else "left" for value in first],
        )
    )


def _markdown(value: Value) -> str:
    match value:
        case Difference(best=True):
            return "–"
        case Difference(interval=i):
            return f"{i.value:+.1f} {signed_interval_text(i)}"
        case Measured(interval=i):
            number = f"**{i.value:.1f}**" if value.best else f"{i.value:.1f}"
            return f"{number} {interval_text(i)}"
        case Change():
            return f"{value:+.2f}"
        case float():
            return f"{value:.2f}"
        case _:
            return escape_markdown(value)


def escape_markdown(name: str) -> str:
    """A stranger's name as itself: no markup, link, formula or control character of it counts."""
    return re.sub(r"([\\`*\[\]|!])|(<)", lambda m: "&lt;" if m[2] else f"\\{m[1]}", to_line(name))


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
        case Difference():
            return [header, f"{header} low", f"{header} high"]
        case Measured():
            return [header, f"{header} low", f"{header} high", f"{header} standing"]
        case _:
            return [header]


def _fields(value: Value) -> list[str]:
    match value:
        case Difference(interval=i):
            return [f"{x:.4f}" for x in (i.value, i.low, i.high)]
        case Measured(interval=i):
            return [*(f"{x:.4f}" for x in (i.value, i.low, i.high)), _standing(value)]
        case float():
            return [f"{value:.4f}"]
        case _:
            return [_as_text(value)]


def _as_text(value: str) -> str:
    """A stranger's name that no spreadsheet takes for a formula."""
    plain = to_line(value)
    return f"'{plain}" if plain.startswith(("=", "+", "-", "@")) else plain


def _standing(value: Measured) -> str:
    """`best`, `tied` or nothing."""
    return "best" if value.best else "tied" if value.tied else ""


def as_latex(table: Table) -> str:
    """A floating table for `\\usepackage{booktabs}`; the best is bold, what ties with it has ≈."""
    alignment = "l" * table.names + "".join(
        "r" if is_number(value) else "l" for value in (table.rows or ((),))[0][table.names :]
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
        case Difference(best=True):
            return "--"
        case Difference(interval=i):
            return f"${i.value:+.1f}$ {{\\scriptsize ${signed_interval_text(i)}$}}"
        case Measured(interval=i):
            number = rf"\textbf{{{i.value:.1f}}}" if value.best else f"{i.value:.1f}"
            tie = r"$^\approx$" if value.tied else ""
            return f"{number} {{\\scriptsize {interval_text(i)}}}{tie}"
        case Change():
            return f"${value:+.2f}$"
        case float():
            return f"{value:.2f}"
        case _:
            return _escaped(value)


def _escaped(text: str) -> str:
    return to_line(text).translate(_LATEX)
