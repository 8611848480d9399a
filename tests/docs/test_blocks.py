"""Every block of shell and Python on a page is run, or says why not; and then its options exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from markdown_it import MarkdownIt
from places import ROOT

from cirbench.benchmark.cli.main import app

PAGES = ["README.md", "CONTRIBUTING.md", "slurm/README.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
MARK = re.compile(r"<!-- not run: (.+) -->")
INSTALLED = "pip() { :; }\n"
"""What pages install is there: the version that is tested."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        place: page and line, for a person.
        file: the name of the file that it shows, if any.
        reason: why it is not run, if it is not.
    """

    place: str
    language: str
    code: str
    file: str | None
    reason: str | None

    def run(self, folder: Path, namespace: dict[str, object]) -> None:
        if self.file:
            (folder / self.file).write_text(self.code, encoding="utf-8")
        elif self.language == "python":
            exec(compile(self.code, self.place, "exec"), namespace)
        elif self.language == "sh":
            self._run_shell(folder)

    def _run_shell(self, folder: Path) -> None:
        command = ["bash", "-euo", "pipefail", "-c", INSTALLED + self.code]
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
            timeout=600,  # seconds; a command that waits for a person must not wait here
        )
        assert done.returncode == 0, f"{self.place}: exit {done.returncode}\n{done.stdout}"


def blocks(page: str) -> Iterator[Block]:
    tokens = MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8"))
    for before, token in zip([None, *tokens], tokens, strict=False):
        place = f"{page}:{token.map[0] + 1}" if token.map else page
        assert token.type != "code_block", f"{place}: must be a fenced block with a language"
        if token.type == "fence":
            language, _, rest = token.info.partition(" ")
            title = re.fullmatch('title="(.+)"', rest)
            mark = MARK.search(before.content) if before else None
            yield Block(
                place=place,
                language=language,
                code=token.content,
                file=title and title[1],
                reason=mark and mark[1],
            )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of a person's own, from which their modules can be imported."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for name in ("CIRBENCH_DATA", "CIRBENCH_RESULTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    scripts = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.docs
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, folder):
    before, namespace = set(sys.modules), {"__name__": "__main__"}
    for block in blocks(page):
        if not block.reason:
            block.run(folder, namespace)
    for name in set(sys.modules) - before:  # another page may show another module of that name
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language(page):
    assert {block.language for block in blocks(page)} <= {"sh", "python", "toml"}


def commands(code: str) -> Iterator[list[str]]:
    """The arguments of each `bench` in a block of shell."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "bench" in words:
            arguments = words[words.index("bench") + 1 :]
            end = next((i for i, word in enumerate(arguments) if word in ("&&", "|", ";")), None)
            yield arguments[:end]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_that_are_not_run_have_options_that_exist(page):
    for block in blocks(page):
        if block.reason and block.language == "sh":
            for arguments in commands(block.code):
                parse(arguments, block.place)


def parse(arguments: list[str], place: str) -> None:
    command = typer.main.get_command(app)
    rest = list(arguments)
    while isinstance(command, typer.core.TyperGroup):
        found = command.get_command(typer.Context(command), rest.pop(0))
        assert found, f"{place}: bench has no command {arguments}"
        command = found
    try:
        command.make_context(command.name, rest)
    except Exception as error:
        raise AssertionError(f"{place}: bench {shlex.join(arguments)}: {error}") from error


@pytest.mark.parametrize(
    "line", ["bench run -m a -t b --no-such", "bench rum", "bench data wher a"]
)
def test_an_option_or_command_that_is_not_there_is_seen(line):
    [arguments] = commands(line)
    with pytest.raises(AssertionError):
        parse(arguments, "here")
