"""The table of docs/scale.md, computed from measured rates: `python tests/support/scale.py`."""

from __future__ import annotations

from dataclasses import dataclass

from places import ROOT

PAGE = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- costs: written by tests/support/scale.py -->", "<!-- end of costs -->"

DECODE_PER_S = 665.0
FORWARD_FP32_PER_S = 272.0
OVERLAP = 0.94
CPU_PER_S = 17.0
GPU_RANK_S, CPU_RANK_S = 3.94, 101.2
RANKED_PAIRS = 10_000 * 1_000_000
"""Both of ranking's rates are of so many pairs of a query and a picture."""
ROWS = {
    "gpu.md": {
        "ViT-B-32-quickgelu: decode JPEGs of 500 × 375 in 16 threads": "665 images/s",
        "ViT-L-14-quickgelu: forward in float32": "272 images/s",
        "ViT-L-14-quickgelu: forward in bf16": "2,437 images/s",
        "ViT-B-32-quickgelu: files to vectors as a share of the slowest stage": "0.94",
        "10,000 × 1,000,000 × 768, k = 200: ranking against that": "3.94 s",
    },
    "perf.md": {
        "embedding pipeline, ViT-B-32-quickgelu, random weights, 128 JPEGs of 224 px": (
            "17 images/s"
        ),
        "ranking 10,000 × 1,000,000 × 768, k = 200, from disk": "101.2 s",
    },
}
"""The rows of results/ that the rates are from, and what they said when the page was written."""
ROW_BYTES = 768 * 4 + 67
"""A vector of ViT-L/14 in float32, and in the shard's header the sha256 it is found by."""
COPIES = 4
"""How often `bench run` holds the gallery's vectors while it reads, picks, makes and pins them."""


@dataclass(frozen=True)
class Gallery:
    name: str
    pictures: int
    queries: int
    slurm: str


ONE = "`timeout_min = 30`, `mem_gb = 8`"
GALLERIES = (
    Gallery("cirr (val)", 2_297, 4_181, ONE),
    Gallery("coco", 9_532, 4_766, ONE),
    Gallery("fashion-iq (val)", 15_536, 6_016, ONE),
    Gallery("imagenet-r", 16_983, 40_000, ONE),
    Gallery("circo (test)", 123_403, 800, "`timeout_min = 60`, `mem_gb = 8`"),
    Gallery("a million", 1_000_000, 10_000, "`embed_tasks = 4`, `timeout_min = 60`, `mem_gb = 32`"),
    Gallery("a hundred million", 100_000_000, 10_000, "not by one run, see below"),
)


def write_duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds:.2g} s"


def write_size(count: float) -> str:
    return f"{count / 1e9:,.2g} GB" if count < 1e11 else f"{count / 1e9:,.0f} GB"


def make_row(gallery: Gallery) -> str:
    pairs = gallery.pictures * gallery.queries / RANKED_PAIRS
    cells = [
        gallery.name,
        f"{gallery.pictures:,}",
        f"{gallery.queries:,}",
        write_duration(gallery.pictures / (OVERLAP * DECODE_PER_S)),
        write_duration(gallery.pictures / (OVERLAP * FORWARD_FP32_PER_S)),
        write_duration(gallery.pictures / CPU_PER_S),
        write_size(gallery.pictures * ROW_BYTES),
        write_size(gallery.pictures * 768 * 4 * COPIES),
        write_duration(pairs * GPU_RANK_S),
        write_duration(pairs * CPU_RANK_S),
        gallery.slurm,
    ]
    return f"| {' | '.join(cells)} |"


def make_table() -> str:
    heads = [
        "gallery",
        "pictures",
        "queries",
        "embed, H200, bf16",
        "embed, H200, fp32",
        "embed, two cores, ViT-B/32",
        "store",
        "memory of a run",
        "rank, H200",
        "rank, two cores",
        "Slurm",
    ]
    return "\n".join(
        [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *map(make_row, GALLERIES)]
    )


def with_table(text: str) -> str:
    """A page with the table of today between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{make_table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
