"""Tables as markdown, as CSV and as LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from tabulate import tabulate

from cirbench.benchmark.report.tables import (
    Measured,
    MeasuredDifference,
    SignedNumber,
    Table,
    Value,
    format_interval,
    format_signed_interval,
    format_spread,
    is_number,
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
    """Write a pipe table; the best is bold."""
    first = table.rows[0] if table.rows else ()
    return str(
        tabulate(
            [[_format_markdown(value) for value in row] for row in table.rows],
            [escape_markdown(header) for header in table.headers],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=["right" if is_number(value) else "left" for value in first],
        )
    )


def _format_markdown(value: Value) -> str:
    match value:
        case MeasuredDifference(best=True):
            return "–"
        case MeasuredDifference(interval=i):
            return f"{i.value:+.1f} {format_signed_interval(i)}"
        case Measured(interval=i):
            number = f"**{i.value:.1f}**" if value.best else f"{i.value:.1f}"
            return f"{number}{format_spread(value)} {format_interval(i)}"
        case SignedNumber():
            return f"{value:+.2f}"
        case float():
            return f"{value:.2f}"
        case _:
            return escape_markdown(value)


def escape_markdown(name: str) -> str:
    """Write a name as itself: no markup, link, formula or control character of it counts."""
    return re.sub(r"([\\`*\[\]|!])|(<)", lambda m: "&lt;" if m[2] else f"\\{m[1]}", to_line(name))


def as_csv(table: Table) -> str:
    """Write CSV; a number takes four columns: value, low, high, and its standing.

    A difference takes three, and a column in which one is of several seeds another, for their
    standard deviation. Numbers have four decimals.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = list(zip(*table.rows, strict=True))
    spread = [any(isinstance(v, Measured) and v.sd is not None for v in own) for own in columns]
    kinds = table.rows[0] if table.rows else ()
    named = zip(table.headers, kinds, spread, strict=True)
    writer.writerow([name for column in named for name in _name_columns(*column)])
    writer.writerows(
        [field for cell in zip(row, spread, strict=True) for field in _format_csv(*cell)]
        for row in table.rows
    )
    return buffer.getvalue()


def _name_columns(header: str, value: Value, spread: bool) -> list[str]:
    match value:
        case MeasuredDifference():
            return [header, f"{header} low", f"{header} high"]
        case Measured():
            sd = [f"{header} sd"] * spread
            return [header, f"{header} low", f"{header} high", f"{header} standing", *sd]
        case _:
            return [header]


def _format_csv(value: Value, spread: bool) -> list[str]:
    match value:
        case MeasuredDifference(interval=i):
            return [f"{x:.4f}" for x in (i.value, i.low, i.high)]
        case Measured(interval=i):
            sd = ["" if value.sd is None else f"{value.sd:.4f}"] * spread
            return [*(f"{x:.4f}" for x in (i.value, i.low, i.high)), _name_standing(value), *sd]
        case float():
            return [f"{value:.4f}"]
        case _:
            return [_escape_formula(value)]


def _escape_formula(value: str) -> str:
    """Write a name so that no spreadsheet takes it for a formula."""
    plain = to_line(value)
    return f"'{plain}" if plain.startswith(("=", "+", "-", "@")) else plain


def _name_standing(value: Measured) -> str:
    """`best`, `tied` or nothing."""
    return "best" if value.best else "tied" if value.tied else ""


def as_latex(table: Table) -> str:
    """Write a floating table for `\\usepackage{booktabs}`; best is bold, a tie with it has ≈."""
    alignment = "l" * table.names + "".join(
        "r" if is_number(value) else "l" for value in (table.rows or ((),))[0][table.names :]
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(table.caption)}}}",
            rf"\label{{tab:{table.stem.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            _format_row(table.headers),
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
        yield _format_row(row)


def _format_row(row: tuple[Value, ...]) -> str:
    return " & ".join(map(_format_latex, row)) + r" \\"


def _format_latex(value: Value) -> str:
    match value:
        case MeasuredDifference(best=True):
            return "--"
        case MeasuredDifference(interval=i):
            return f"${i.value:+.1f}$ {{\\scriptsize ${format_signed_interval(i)}$}}"
        case Measured(interval=i):
            number = rf"\textbf{{{i.value:.1f}}}" if value.best else f"{i.value:.1f}"
            number += format_spread(value).replace("±", r"$\pm$")
            tie = r"$^\approx$" if value.tied else ""
            return f"{number} {{\\scriptsize {format_interval(i)}}}{tie}"
        case SignedNumber():
            return f"${value:+.2f}$"
        case float():
            return f"{value:.2f}"
        case _:
            return _escape_latex(value)


def _escape_latex(text: str) -> str:
    return to_line(text).translate(_LATEX)
