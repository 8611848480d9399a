"""The notebooks run, show what they speak of, and write nothing to stderr."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT

FOLDER = ROOT / "docs" / "notebooks"
ALL = sorted(path.name for path in FOLDER.glob("*.ipynb"))


@pytest.fixture(autouse=True)
def _environment_of_a_person(monkeypatch):
    """Nothing that a command line told matplotlib in this process, and no warnings of CI."""
    for name in ("MPLBACKEND", "PYTHONWARNDEFAULTENCODING"):
        monkeypatch.delenv(name, raising=False)


def outputs(name):
    """What the cells of a notebook show once it has run, in order."""
    notebook = nbformat.read(FOLDER / name, as_version=4)
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def shown(found, kind):
    return [output.data[kind] for output in found if kind in output.get("data", {})]


def streams(found):
    return [output for output in found if output.output_type == "stream"]


@pytest.mark.docs
def test_a_method_of_ones_own_is_measured_with_the_notebooks_bar():
    found = outputs("own_method.ipynb")
    assert streams(found) == []
    bars = [html for html in shown(found, "text/html") if "<progress" in html]
    assert any("max='3000' value='3000'" in bar.replace('"', "'") for bar in bars)
    tables = [html for html in shown(found, "text/html") if "<table" in html]
    assert all(name in tables[0] for name in ("more-text", "image-text", "pic2word", "R@10"))
    assert all(style in tables[1] for style in ("mono", "noto", "twemoji", "flat"))


@pytest.mark.docs
def test_the_figure_is_drawn_from_the_committed_records():
    found = outputs("figure.ipynb")
    assert streams(found) == []
    assert len(shown(found, "image/png")) == 2
    values = shown(found, "text/plain")[1]
    assert "65.5" in values.splitlines()[-1]  # the Combiner's average, the last column


@pytest.mark.parametrize("name", ALL)
def test_a_notebook_is_kept_without_outputs(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_every_notebook_is_run_here():
    assert ALL == ["figure.ipynb", "own_method.ipynb"]
