"""The page of a run, drawn from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

NO_GPU = (
    "**This run had no GPU.** It was made with small sizes, to show that the script works; none of "
    "its figures says anything of a GPU."
)


def draw_page(results: Mapping[str, Any]) -> str:
    """Markdown of everything that is known so far."""
    return (
        "\n\n".join(
            ["# On a GPU", *_head(results), *(_draw_part(part) for part in results["parts"])]
        ).rstrip()
        + "\n"
    )


def _head(results: Mapping[str, Any]) -> list[str]:
    machine = results["machine"]
    card = machine["gpu"] and f"{machine['gpu']} ({machine['gpu_memory_gib']} GiB)"
    where = f"{card or 'a CPU'}, with {machine['cpu']}, {machine['cores']} cores"
    versions = f"Python {machine['python']}, torch {machine['torch']}, CUDA {machine['cuda']}"
    missed = sum(f["ok"] is False for part in results["parts"] for f in part["findings"])
    broken = [part["name"] for part in results["parts"] if part["error"]]
    counted = f"{missed} targets missed; " + (
        f"parts that did not end: {', '.join(broken)}." if broken else "every part ended."
    )
    return [
        *([] if machine["gpu"] else [NO_GPU]),
        f"Written by `make gpu` on {where}; {versions}. {counted}",
    ]


def _draw_part(part: Mapping[str, Any]) -> str:
    peak = ", ".join(
        f"{part['peak'][kind]:,.0f} MB of {name}"
        for kind, name in (("gpu", "GPU memory"), ("ram", "memory"))
        if kind in part["peak"]
    )
    said = [f"{part['seconds']:.0f} s" + (f"; at the peak {peak}" if peak else "")]
    if part["commit"]:
        said.append(f"commit {part['commit'][:12]}")
    blocks = [f"## {part['title']}", "; ".join(said) + "."]
    if part["findings"]:
        blocks.append(_draw_table(part["findings"]))
    if part["error"]:
        blocks.append(f"**Not finished:** {part['error']}")
    return "\n\n".join(blocks)


def _draw_table(findings: list[Mapping[str, Any]]) -> str:
    words = {None: "", True: "ok", False: "MISSED"}
    rows = [
        [_escape(f["what"]), _escape(f["shown"]), f["target"], words[f["ok"]]] for f in findings
    ]
    headers = ["what", "found", "target", ""]
    return str(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True))


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
