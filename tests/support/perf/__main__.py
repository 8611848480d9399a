"""Measures, prints, and writes perf.md, perf.json and perf-growth.svg into the folder given."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from cirbench.benchmark.runtime.files import write_whole
from cirbench.benchmark.runtime.provenance import describe_environment
from perf import circo, growth, ranks, records, towers
from perf.measure import Row, unit_vectors

PLOT = "perf-growth.svg"


def measured(folder: Path) -> Iterator[Row]:
    """Every row, as it is measured."""
    yield towers.start_up_row(["--help"])
    yield towers.start_up_row(["ls"])
    emoji = towers.embedded_clip()
    refs = towers.jpegs(folder, 512)
    yield towers.pipeline_row(emoji, refs)
    yield towers.pipeline_row(towers.random_vit_b_32(), refs[:128])
    yield from towers.store_rows(folder)
    if row := towers.bf16_row():
        yield row
    yield towers.training_row(emoji)
    yield towers.loading_row(emoji, folder)
    yield ranks.bootstrap_row()
    yield from records.command_rows(folder)
    yield from circo.circo_rows(folder)
    yield ranks.ranking_row(10_000, unit_vectors(16_983, ranks.WIDTH, 1), 200)
    yield ranks.ranking_row(10_000, unit_vectors(100_000, ranks.WIDTH, 1), 200)
    gallery = ranks.mapped_gallery(folder, 1_000_000)
    yield ranks.ranking_row(10_000, gallery, 200, where=", from disk", rounds=1)
    yield ranks.million_row(folder)
    yield ranks.own_score_row(2_000, 16_983, 200)
    yield ranks.scoring_row("fashion-iq shirt", 2_038, 6_346)
    yield ranks.scoring_row("imagenet-r", 40_000, 16_983)


def markdown(
    rows: Sequence[Row],
    changes: Sequence[tuple[str, str, float, float]],
    grown: Mapping[str, Sequence[float]],
) -> str:
    """The page."""
    cpu = describe_environment()
    return (
        "\n\n".join(
            [
                "# Speed and memory",
                f"Written by `make perf` on {cpu.cpu}, {cpu.cpu_count} cores, torch "
                f"{cpu.packages['torch']}. Each ratio is of two measurements in one run; GPUs "
                f"are measured by `make gpu`.",
                _table(
                    [
                        [
                            r.name,
                            r.against,
                            f"{r.ratio:.2f}",
                            r.target,
                            "ok" if r.ok else "MISSED",
                            r.measured,
                        ]
                        for r in rows
                    ],
                    ["what", "against", "ratio", "target", "", "measured"],
                ),
                "## Growth",
                f"Seconds at 1, 2, 4 and 8 times as much, and the exponent of growth: 1 is linear, "
                f"at most {growth.MOST_EXPONENT} is wanted.",
                _table(
                    [
                        [
                            name,
                            *(f"{t:.2f}" for t in times),
                            f"{growth.exponent(times):.2f}",
                            "ok" if growth.exponent(times) <= growth.MOST_EXPONENT else "MISSED",
                        ]
                        for name, times in grown.items()
                    ],
                    ["what grows", *(f"× {n}" for n in growth.FACTORS), "exponent", ""],
                ),
                f"![Seconds over the factor of growth, both logarithmic]({PLOT})",
                "## bfloat16 towers",
                "What `--precision bf16` changes on emoji, in percent, average of the styles.",
                _table(
                    [
                        [method, metric, f"{full:.2f}", f"{half:.2f}", f"{half - full:+.2f}"]
                        for method, metric, full, half in changes
                    ],
                    ["method", "metric", "float32", "bfloat16", "change"],
                ),
            ]
        )
        + "\n"
    )


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    return str(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True))


def as_json(rows: Sequence[Row]) -> str:
    """Of each row what a machine compares."""
    fields = ("name", "ratio", "target", "ok")
    return json.dumps([{name: getattr(row, name) for name in fields} for row in rows], indent=2)


def main() -> None:
    """Everything, in about ten minutes on two cores."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for row in measured(folder):
            rows.append(row)
            print(f"{row.name}: {row.ratio:.2f} ({row.target}), {row.measured}", flush=True)
        grown = growth.growth(towers.jpegs(folder, growth.images_needed()))
        grown |= growth.large_growth(folder)
        changes = towers.bf16_changes(folder)
    growth.write_plot(output / PLOT, grown)
    for file, text in (("perf.md", markdown(rows, changes, grown)), ("perf.json", as_json(rows))):
        with write_whole(output / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(f"{sum(not row.ok for row in rows)} of {len(rows)} targets missed; {output}/perf.md")


if __name__ == "__main__":
    main()
