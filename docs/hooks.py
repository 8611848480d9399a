"""What the site is made of besides the pages in this folder."""

from __future__ import annotations

import io
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

from cirbench.benchmark.api import registry
from cirbench.benchmark.cli.main import app

ROOT = Path(__file__).parents[1]
TAKEN = (
    *("*.md", "NOTICE", "LICENSE", "slurm/README.md", "methods/weights/README.md"),
    *("datasets/*/*.md", "datasets/*/clip/README.md", "results/**/*"),
)
"""What pages link to, by its place in the repository."""
EACH = {"METHOD": registry.methods, "TASK": registry.tasks}


def on_startup(**_: object) -> None:
    """Lay the folders out under the names that they are imported by, for mkdocstrings to read."""
    package = ROOT / "build" / "package" / "cirbench"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for path in (ROOT / "benchmark" / "face").glob("*.py"):
        (package / path.name).symlink_to(path)
    for folder in ("benchmark", "datasets", "methods", "slurm"):
        (package / folder).symlink_to(ROOT / folder)


@event_priority(100)  # before a plug-in looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> None:
    """Give every page its place in the repository, so that links hold here as they do there."""
    for file in list(files.documentation_pages()) + list(files.media_files()):
        if file.abs_src_path and Path(file.abs_src_path).is_relative_to(config.docs_dir):
            files.remove(file)
            _add(Path(file.abs_src_path), files, config)
    for pattern in TAKEN:
        for path in filter(Path.is_file, sorted(ROOT.glob(pattern))):
            _add(path, files, config)


def _add(path: Path, files: Files, config: MkDocsConfig) -> None:
    place = path.relative_to(ROOT).as_posix()
    files.append(File(place, str(ROOT), config.site_dir, config.use_directory_urls))


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put what bench prints in the place of a comment such as <!-- bench ls tasks --markdown -->.

    TASK and METHOD in it stand for each in turn.
    """
    return re.sub("^<!-- bench (.+) -->$", _print_each, markdown, flags=re.MULTILINE)


def _print_each(found: re.Match[str]) -> str:
    words = found[1].split()
    each = next((EACH[word]() for word in words if word in EACH), [""])
    return "\n\n".join(_print([name if word in EACH else word for word in words]) for name in each)


def _print(arguments: list[str]) -> str:
    with redirect_stdout(io.StringIO()) as printed:
        app(arguments, standalone_mode=False)
    return printed.getvalue()
