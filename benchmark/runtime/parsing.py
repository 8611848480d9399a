"""Tables that others wrote: every row is taken, or refused with its number."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.files import read_regular_file


def say_nothing(_sentence: str) -> None:
    """Discard a sentence; the default for callers that want no remarks."""


class TabSeparated(csv.excel):
    """Fields between tabs, in which a quote is a character like any other."""

    quoting = csv.QUOTE_NONE


def read_table(
    path: Path,
    columns: Collection[str] | None,
    separator: str | None = None,
    say: Callable[[str], object] = say_nothing,
) -> list[dict[str, str]]:
    """The rows of a table with a header, of each the fields of `columns`.

    Between tabs a quote is a character like any other, as in CC3M's tables; otherwise the quotes of
    CSV must be right, since a caption that begins with one would swallow the rows behind it.

    Args:
        columns: those it must have; None takes all that are there.
        separator: default: a comma where the file ends in .csv, else a tab.
        say: is told how many rows go over several lines, since it may be a lost quote that binds
            them together.

    Raises:
        MissingData: there is no such file.
        CorruptData: a column is not there, a row has more or fewer fields than the header, or it
            is not such a table; names the row, counted from 1 behind the header.
        UsageError: the separator is not one character.
    """
    if not path.is_file():
        raise MissingData(f"no file at {path}")
    delimiter = separator or ("," if path.suffix.lower() == ".csv" else "\t")
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise UsageError(f"the separator must be one character, got {delimiter!r}")
    found: list[dict[str, str]] = []
    long: list[int] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(
                file,
                TabSeparated if delimiter == "\t" else csv.excel,
                delimiter=delimiter,
                strict=True,
            )
            header = next(rows, [])
            columns = header if columns is None else columns
            _check_header(header, columns, path)
            for row in filter(None, rows):  # without empty lines
                if len(row) != len(header):
                    raise CorruptData(
                        f"{path}, row {len(found) + 1} (line {rows.line_num}) must have "
                        f"{len(header)} fields like its header, got {len(row)}"
                    )
                found.append({column: row[header.index(column)] for column in columns})
                if any("\n" in field or "\r" in field for field in row):
                    long.append(len(found))
    except UnicodeDecodeError as error:
        raise CorruptData(f"{path} must be a table in UTF-8 ({error})") from error
    except csv.Error as error:
        raise CorruptData(
            f"{path}, row {len(found) + 1} is not valid CSV ({error}); a field that begins with a "
            'quote must end with one, and quotes inside it must be doubled ("")'
        ) from error
    if long:
        say(
            f"{path}: {len(long):,} of {len(found):,} rows span several lines, the first is row "
            f"{long[0]}; if these lines do not belong together, a quote is missing"
        )
    return found


def _check_header(header: list[str], columns: Collection[str], path: Path) -> None:
    for column in columns:
        if header.count(column) != 1:
            has = f"has {header.count(column) or 'no'} column" + "s" * (header.count(column) > 1)
            raise CorruptData(f"{path} {has} `{column}`; its header is {header or 'empty'}")


def read_text(path: Path) -> str:
    """A file of text, with or without a byte order mark.

    Raises:
        MissingData: it can't be read.
        CorruptData: it is not in UTF-8.
    """
    try:
        return read_regular_file(path).decode("utf-8-sig")
    except OSError as error:
        raise MissingData(f"the annotations {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CorruptData(f"{path} must be text in UTF-8 ({error}); fetch it again") from error


def read_json(path: Path) -> Any:
    """A JSON file, with or without a byte order mark.

    Raises:
        MissingData: it can't be read.
        CorruptData: it is not valid JSON in UTF-8, an object has a name twice, or a text half a
            character.
    """
    text = read_text(path)
    try:
        return _parse_json(text, str(path))
    except CorruptData as error:
        if _is_json_lines(text):
            raise CorruptData(
                f"{path} must be one JSON value, got JSON Lines (one value in each line); convert "
                "it to a list"
            ) from error
        raise


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a file with one a line, each with where it stands; raises as `read_json`."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            origin = f"{path}, line {number}"
            yield origin, _parse_json(line, origin)


def _parse_json(text: str, origin: str) -> Any:
    try:
        found = json.loads(text, object_pairs_hook=_check_names)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()  # raises where one stands alone
        return found
    except UnicodeEncodeError as error:
        raise CorruptData(f"{origin} must be valid Unicode ({error}); fetch it again") from error
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{origin} is not valid JSON ({error}); fetch it again") from error


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _check_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(
            name for name, count in Counter(name for name, _ in pairs).items() if count > 1
        )
        raise ValueError(f"{twice!r} occurs twice in one object")
    return found


def _is_json_lines(text: str) -> bool:
    lines = list(filter(str.strip, text.splitlines()[:_LOOKED_AT]))
    try:
        return len(lines) > 1 and all(isinstance(json.loads(line), dict | list) for line in lines)
    except (ValueError, RecursionError):
        return False


_LOOKED_AT = 3


def read_lines(path: Path) -> list[str]:
    """The lines of a file of text; raises as `read_text` does."""
    return read_text(path).splitlines()


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        UsageError: it is not valid TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
