"""The report's files: made from the records of a results folder, written, or compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cirbench.benchmark.analysis.board_statistics import compute_statistics
from cirbench.benchmark.analysis.boards import Board, read_boards
from cirbench.benchmark.analysis.published import Verdict, read_published, verify
from cirbench.benchmark.records.fields import slug
from cirbench.benchmark.report.export import as_csv, as_latex
from cirbench.benchmark.report.gallery import render_gallery
from cirbench.benchmark.report.page import make_section, render_index
from cirbench.benchmark.report.pictures import Permission, load_task_data
from cirbench.benchmark.report.tables import make_report_tables, name_board
from cirbench.benchmark.runtime.files import write_whole

FOLDER = "report"
_OURS = ("*.html", "tables/*.csv", "tables/*.tex")


def render_files(root: Path, permission: Permission) -> dict[Path, str]:
    """Render every file of the report, by its path below `root`; the same records, the same text.

    Raises:
        MissingData: no record, or a picture that is to be embedded is not there.
        CorruptData: a record, its per-query data or a picture is damaged.
        UsageError: pictures are asked for of a task that is not installed.
    """
    found = read_boards(root)
    verdicts = verify(read_published(), [record for board in found for record in board.records])
    files: dict[Path, str] = {}
    sections = []
    for board, name in zip(found, name_galleries(found), strict=True):
        own = _select_verdicts(board, verdicts)
        shown = compute_statistics(board)
        tables = make_report_tables(board, shown, own)
        sections.append(make_section(board, shown, tables, own, name))
        for table in tables:
            files[Path(FOLDER, "tables", f"{table.stem}.csv")] = as_csv(table)
            files[Path(FOLDER, "tables", f"{table.stem}.tex")] = as_latex(table)
        covered = permission.covers(board.first.cell.task)
        data = load_task_data(board, permission.data_root) if covered else None
        files[Path(FOLDER, name)] = render_gallery(board, data)
        vars(board).pop("per_query")  # what the board has cached; a large task's is gigabytes
    files[Path(FOLDER, "index.html")] = render_index(sections, verdicts)
    return files


def name_galleries(found: Sequence[Board]) -> list[str]:
    """Name each board's gallery: `gallery-TASK.html`, or its own where a task has several."""
    count = Counter(board.first.task_label for board in found)
    tasks = [board.first.task_label for board in found]
    return [
        f"gallery-{slug(task) if count[task] == 1 else name_board(board)}.html"
        for task, board in zip(tasks, found, strict=True)
    ]


def _select_verdicts(board: Board, verdicts: Sequence[Verdict]) -> list[Verdict]:
    own = {record.path.name for record in board.records}
    return [v for v in verdicts if v.measured is not None and v.record in own]


def write(root: Path, permission: Permission) -> list[Path]:
    """Write what differs from what is there, remove what is left over, return all paths."""
    made = render_files(root, permission)
    for path, text in made.items():
        if not _holds(root / path, text):
            with write_whole(root / path) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
    for path in find_left_over(root, made):
        path.unlink()
    return [root / path for path in made]


def find_stale(root: Path, permission: Permission) -> list[Path]:
    """Find the files that `write` would write anew or remove."""
    made = render_files(root, permission)
    old = [root / path for path, text in made.items() if not _holds(root / path, text)]
    return old + find_left_over(root, made)


def find_left_over(root: Path, made: dict[Path, str]) -> list[Path]:
    """Find files of an earlier report that this one does not have."""
    there = [path for pattern in _OURS for path in sorted((root / FOLDER).glob(pattern))]
    return [path for path in there if path.relative_to(root) not in made]


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()
