"""The house: its floors, and the imports between its rooms.

The table of floors is the law that `test_rooms.py` holds, and what ARCHITECTURE.md draws:
`python tests/support/house.py` writes it there anew.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from places import ROOT

FLOORS: tuple[tuple[str, ...], ...] = (
    ("benchmark.cli", "benchmark.face"),
    ("slurm", "methods", "benchmark.conformance", "benchmark.export"),
    ("benchmark.report", "benchmark.search", "benchmark.training"),
    ("benchmark.evaluation", "benchmark.analysis", "datasets"),
    ("benchmark.embedding", "benchmark.backbones", "benchmark.scoring", "benchmark.data"),
    ("benchmark.records", "benchmark.checkpoints", "benchmark.images", "benchmark.ranking"),
    ("benchmark.api", "benchmark.trackers"),
    ("benchmark.runtime",),
)
"""From the top down. What stands on one floor does not know what stands beside it."""
FOLDERS = ("benchmark", "methods", "datasets", "slurm")
_BEGIN, _END = "<!-- rooms: written by tests/support/house.py -->", "<!-- end of rooms -->"

Arrows = Mapping[str, frozenset[str]]
"""What imports → what is imported, by dotted names without `cirbench.`."""


@cache
def modules() -> Mapping[str, Path]:
    """Dotted name → file of every module; a package goes by its folder's name."""
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {_dotted(path): path for path in paths}


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of a module: below `benchmark` a folder or file, else the top folder."""
    first, *rest = module.split(".")
    return f"{first}.{rest[0]}" if first == "benchmark" and rest else first


def package_of(module: str) -> str:
    """The folder that a module lies in."""
    path = modules()[module]
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


@cache
def imports() -> Arrows:
    """Which module imports which, wherever in a file: at its head, in a function, for types."""
    return {name: frozenset(_imported(name, path)) for name, path in modules().items()}


def _imported(importer: str, path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        wanted: Iterable[str] = ()
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{importer}: relative imports can't be read off"
            wanted = (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            wanted = (alias.name for alias in node.names)
        for name in wanted:
            own, _, rest = name.partition(".")
            if own == "cirbench" and (target := _module_of(rest)) not in (None, importer):
                yield str(target)


def _module_of(name: str) -> str | None:
    """The module that a dotted name is, or lies in."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name or None


def between(kind: str) -> Arrows:
    """The arrows between rooms ("room") or folders ("package")."""
    place = {"room": room_of, "package": package_of}[kind]
    arrows: dict[str, set[str]] = {place(module): set() for module in modules()}
    for importer, imported in imports().items():
        arrows[place(importer)] |= {place(module) for module in imported} - {place(importer)}
    return {name: frozenset(targets) for name, targets in arrows.items()}


def floor_of(room: str) -> int:
    """Its number, 1 at the ground; raises StopIteration for a room that is in no floor."""
    return len(FLOORS) - next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def arrows_up() -> list[tuple[str, str]]:
    """Each import between rooms that does not go down."""
    return [
        (room, target)
        for room, targets in between("room").items()
        for target in targets
        if floor_of(target) >= floor_of(room)
    ]


def circles(arrows: Arrows) -> list[str]:
    """The names that can be reached from themselves."""
    return [name for name in arrows if name in _reached(arrows, name)]


def _reached(arrows: Arrows, start: str) -> set[str]:
    seen: set[str] = set()
    asked = [start]
    while asked:
        for target in arrows.get(asked.pop(), frozenset()) - seen:
            seen.add(target)
            asked.append(target)
    return seen


def sentences(room: str) -> list[str]:
    """The paragraphs of a room's docstring: what it is, and what may be changed in it."""
    text = ast.get_docstring(ast.parse(modules()[room].read_text(encoding="utf-8"))) or ""
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def drawing() -> str:
    """The floors as a picture of text, and a table of the rooms."""
    names = [[room.removeprefix("benchmark.") for room in floor] for floor in FLOORS]
    lines = [f"  {len(FLOORS) - i}  {' │ '.join(floor)}" for i, floor in enumerate(names)]
    rows = [
        f"| {floor_of(room)} | `{_folder(room)}` | {' '.join(sentences(room)[:2])} |"
        for floor in FLOORS
        for room in floor
    ]
    head = ["| floor | room | what it is, and what may be changed in it |", "|---|---|---|"]
    return "\n".join(["```", *lines, "```", "", *head, *rows])


def _folder(room: str) -> str:
    path = modules()[room].relative_to(ROOT)
    return f"{path.parent}/" if path.name == "__init__.py" else str(path)


def with_drawing(text: str) -> str:
    """A page with the drawing of today between its marks."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{drawing()}\n{_END}{after}"


if __name__ == "__main__":
    page = ROOT / "ARCHITECTURE.md"
    page.write_text(with_drawing(page.read_text(encoding="utf-8")), encoding="utf-8")
    rooms, packages = between("room"), between("package")
    print(
        f"{len(FLOORS)} floors, {len(rooms) - 1} rooms, {sum(map(len, rooms.values()))} arrows "
        f"({len(arrows_up())} up), circles: {circles(rooms)} of rooms, {circles(packages)} of "
        f"folders, {circles(imports())} of modules"
    )
