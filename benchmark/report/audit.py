"""The composition audit in words and in markdown."""

from __future__ import annotations

from collections.abc import Sequence

from cirbench.benchmark.analysis.composition import REQUIRED, SOLVABLE, UNRESOLVED, Audit, Pool
from cirbench.benchmark.records.record import Record, label_records
from cirbench.benchmark.report.export import as_markdown, escape_markdown
from cirbench.benchmark.report.tables import format_interval, make_audit_table


def describe_audit(audit: Audit) -> str:
    """Describe the shares of the categories, and what decided them."""
    queries = audit.board.first.counts.queries
    shares = {
        name: f"{share.value:.1f} % {format_interval(share)}"
        for name, share in audit.findings.shares.items()
    }
    return (
        f"Composition audit of {queries:,} queries, {_name_source(audit)}: "
        f"{shares[SOLVABLE]} are found from the picture alone or the text alone (shortcuts), "
        f"{shares[REQUIRED]} only from both (composition required), {shares[UNRESOLVED]} not at "
        f"all (unresolved). Its means are over queries, not over groups."
    )


def _name_source(audit: Audit) -> str:
    if not isinstance(audit.labels, Pool):
        told = audit.labels.as_dict()
        return f"by the labels {told['labels']} (sha256 {told['sha256'][:8]})"
    pool = audit.labels
    return (
        f"within the first {pool.k}, by {_name(pool.image)} (picture), {_name(pool.text)} (text) "
        f"and {_name(pool.composed)}"
    )


def _name(records: Sequence[Record]) -> str:
    return ", ".join(label_records(records))


def render_audits(audits: Sequence[Audit]) -> str:
    """Render a page: for each board what decided, and a table a metric."""
    parts = ["# Composition audit", "", "Written by `bench audit` from the records beside it.", ""]
    for audit in audits:
        parts += [f"## {escape_markdown(audit.board.title)}", ""]
        parts += [escape_markdown(describe_audit(audit)), ""]
        for metric in audit.metrics:
            table = make_audit_table(audit, metric)
            parts += [f"### {escape_markdown(metric)}", "", as_markdown(table), ""]
    return "\n".join(parts)
