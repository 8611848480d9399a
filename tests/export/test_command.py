"""What all formats of `bench export` share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import RESULTS

from cirbench.benchmark.records.fields import Imported
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.scoring.metrics import parse_metric

FORMATS = [["trec"], ["hf", "--namespace", "lab"], ["eee", "--by", "Jo"]]


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_imports_anything_heavy(name, tmp_path):
    code = (
        "import sys; sys.argv = ['bench', *sys.argv[1:]]\n"
        "from cirbench.benchmark.cli.main import main\n"
        "main()\n"
        "names = {'torch', 'transformers', 'open_clip', 'pandas', 'matplotlib'}\n"
        "heavy = names & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    arguments = ["export", *name, "-m", "pic2word", "--out", tmp_path, "--output", RESULTS]
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout


def test_a_method_without_record_is_a_mistake(bench, tmp_path):
    code, out, error = bench("export", "trec", "-m", "context-i2w", "--output", RESULTS)
    assert (code, out) == (2, "")
    assert "there are: emoji artemis" in error


@pytest.mark.parametrize("arguments", [[], ["-t", "cirr", "--out", "folder"]])
def test_mteb_is_refused_with_the_reason(bench, arguments):
    code, out, error = bench("export", "mteb", *arguments)
    assert (code, out) == (2, "")
    assert "nDCG@10 on its corpus, and no protocol of cirbench is one" in error


def test_no_protocol_has_mtebs_metric():
    with pytest.raises(UsageError):
        parse_metric("nDCG@10")


@pytest.mark.parametrize("name", [*FORMATS, ["ro-crate"]])
def test_what_was_imported_says_so_in_every_format(bench, world, name):
    producer = "Jo's server"
    world.write(method="answers", imported=Imported(kind="ranking", files={}, producer=producer))
    chosen = [] if name == ["ro-crate"] else ["-m", "answers"]
    code, out, error = bench("export", *name, *chosen, "--output", world.root)
    assert code == 0, error
    texts = [Path(path).read_text(encoding="utf-8") for path in out.splitlines()]
    marked = {text for text in texts if "imported" in text}
    assert marked
    if name != ["trec"]:
        assert any(f"imported ranking of {producer}" in " ".join(t.split()) for t in marked)
