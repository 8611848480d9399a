"""The report's page: every board with its tables, charts and where its records come from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import SimpleNamespace

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cirbench.benchmark.analysis.board_statistics import Statistics
from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.analysis.composition import audit_board
from cirbench.benchmark.analysis.published import STATES, Verdict
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.records.fields import Counts
from cirbench.benchmark.records.record import Record, label_records
from cirbench.benchmark.report import charts
from cirbench.benchmark.report.audit import describe_audit
from cirbench.benchmark.report.charts import Chart
from cirbench.benchmark.report.tables import (
    SEEDS,
    Measured,
    MeasuredDifference,
    SignedNumber,
    Table,
    Value,
    format_interval,
    format_signed_interval,
    format_spread,
    name_board,
)

_PACKAGE = "cirbench.benchmark.report"
_RUN = ("device", "precision", "batch_size", "seconds")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a record comes from, as rows of (what, value)."""

    label: str
    link: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A board as the page shows it.

    Attributes:
        notes: what a reader should know of the tables: the composition audit, seeds.
        gallery: the file name of its gallery.
    """

    id: str
    title: str
    protocol: EvaluationProtocol
    counts: Counts
    resamples: int
    headline: str
    notes: tuple[str, ...]
    tied: tuple[str, ...]
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]
    sources: tuple[Source, ...]
    gallery: str


def make_section(
    board: Board,
    shown: Statistics,
    tables: Sequence[Table],
    verdicts: Sequence[Verdict],
    gallery: str,
) -> Section:
    """Gather everything about one board; `verdicts` are those of this board's records."""
    names = label_records(board.rows)
    drawn = [
        charts.make_bars(board, names),
        charts.make_curves(shown, names),
        charts.make_cost(board, shown, names),
        charts.make_scatter(verdicts),
    ]
    headline, audit = shown.scores["average", board.headline], audit_board(board)
    return Section(
        id=name_board(board),
        title=board.title,
        protocol=board.first.protocol,
        counts=board.first.counts,
        resamples=board.first.bootstrap.resamples,
        headline=board.headline,
        notes=(
            *([describe_audit(audit)] if audit else []),
            *([SEEDS] if len(board.rows) < len(board.records) else []),
        ),
        tied=tuple(n for n, s in zip(names, headline, strict=True) if s.best or s.tied),
        tables=tuple(tables),
        charts=tuple(chart for chart in drawn if chart is not None),
        sources=tuple(map(_make_source, label_records(board.records), board.records)),
        gallery=gallery,
    )


def _make_source(label: str, record: Record) -> Source:
    code = record.environment.code
    facts = {
        **dict(_list_fields(record.cell)),
        "commit": code.commit,
        "uncommitted changes": code.dirty or "none",
        **{f"{name} fingerprint": value for name, value in _list_fields(record.fingerprints)},
        **{name: value for name, value in _list_fields(record.environment) if name != "code"},
        **{name: getattr(record.run, name) for name in _RUN},
        "per-query sha256": record.per_query.sha256,
    }
    return Source(
        label=label,
        link=f"../{record.path.parent.name}/{record.path.name}",
        facts=tuple(
            (name, _format(value)) for name, value in facts.items() if value not in (None, "")
        ),
    )


def _list_fields(value: object) -> list[tuple[str, object]]:
    """List the fields by name, as they stand in the record's file."""
    return sorted(vars(value).items())


def _format(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format(inner)}" for name, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def render_index(sections: Sequence[Section], verdicts: Sequence[Verdict]) -> str:
    """Render the whole page; `verdicts` are those of every published number."""
    counts = Counter(verdict.state for verdict in verdicts)
    return render(
        "index.html",
        sections=sections,
        verdicts=[(state, counts[state]) for state in STATES],
        records=sum(len(section.sources) for section in sections),
        frame=_frame(),
        letters=charts.LETTERS,
    )


def render(name: str, **values: object) -> str:
    """Render a template with these values, all text in them escaped."""
    return _environment().get_template(name).render(**values)


def _frame() -> SimpleNamespace:
    return SimpleNamespace(
        width=charts.WIDTH,
        height=charts.HEIGHT,
        left=charts.LEFT,
        top=charts.TOP,
        right=charts.WIDTH - charts.RIGHT,
        bottom=charts.HEIGHT - charts.BOTTOM,
    )


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals["inlined"] = _inline
    made.filters.update(
        kind=_name_kind,
        interval=format_interval,
        signed_interval=format_signed_interval,
        spread=format_spread,
    )
    return made


def _inline(name: str) -> Markup:
    """Read a style or script of ours, which needs no escaping."""
    return Markup((files(_PACKAGE) / "templates" / name).read_text(encoding="utf-8"))


def _name_kind(value: Value) -> str:
    match value:
        case MeasuredDifference():
            return "difference"
        case Measured():
            return "score"
        case SignedNumber():
            return "change"
        case float():
            return "number"
        case _:
            return "text"
