"""A commented task to begin with, of a person's folder of pictures: `bench new task`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from string import Template

from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.paths import to_text
from cirbench.datasets.own.pictures import open_pictures

_ROWS = 5
TASK = Template(
    """\
# A task of your own: bench run -m image-text -t $name.toml
# Paths are relative to this file. What is left out has the value that is shown.

name = "$name"                      # what records and tables call it
backbone = "ViT-L-14/openai"        # where bench run has no --backbone
pictures = $pictures                # a folder, a .zip, a .tar, or .parquet tables
# fields = ["season"]               # further columns of the queries, for {season} in a template
# credit = "Photos: NAME, CC BY"    # only where everybody may see the pictures

[protocol]                          # all of it is in the protocol's hash
version = 1                         # raise it when the queries or pictures change
reference_removed = true            # whether a query's own reference is left out of its ranking
preprocess = "clip"                 # or clip-hf, targetpad, imagenet, white-square
metrics = ["R@1", "R@5", "R@10", "R@50"]   # also HR@K, mAP@K; Rs@K among a row's `members`
headline = "R@10"                   # the metric that ranks the leaderboard

[protocol.templates]                # what methods of each family are asked
text = "{text}"
pseudo-word = "a photo of * , {text}"
that = "a photo of * that {text}"

[splits.test]                       # the first split is the default
queries = "$name.csv"               # or .jsonl; CIRR's or Fashion-IQ's .json; .parquet
# queries = { dress = "dress.csv" } # a file for each group
# gallery = "gallery.txt"           # the pictures that are ranked, one a line; default: all

# [splits.val]
# queries = "val.csv"

# [train]                           # for bench train
# queries = "train.csv"             # triplets
# select_on = "val"                 # the split that chooses the best epoch
# pictures = "unlabelled"           # for methods that train on pictures alone
"""
)


def make_example(name: str, pictures: Path, folder: Path) -> Mapping[str, str]:
    """File name → text, of a task that runs as it is, with texts that are to be replaced.

    Args:
        folder: where the files will lie; pictures below it are named from there.

    Raises:
        UsageError: there are fewer than two pictures.
        MissingData, CorruptData: as `open_pictures`.
    """
    names = list(open_pictures(pictures).refs)
    if len(names) < 2:
        raise UsageError(f"{to_text(pictures)} must hold two pictures at least, got {len(names)}")
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["reference", "text", "target"])
    for reference, target in pairwise(names[: _ROWS + 1]):
        rows.writerow([reference, "say here what changes", target])
    place = pictures.resolve()
    if place.is_relative_to(folder.resolve()):
        place = place.relative_to(folder.resolve())
    quoted = json.dumps(to_text(place), ensure_ascii=False)  # a string in TOML, too
    written = TASK.substitute(name=name, pictures=quoted)
    return {f"{name}.toml": written, f"{name}.csv": table.getvalue()}
