"""`bench cache`. Nothing heavy is imported before a command needs it."""

from pathlib import Path
from typing import Annotated

import typer

from cirbench.benchmark.cli.options import HELP, AsJson, print_json
from cirbench.benchmark.runtime.errors import CorruptData, UsageError

UNUSED = "unused: made by another version of cirbench or of its libraries"

cache = typer.Typer(help="The store of embeddings (CIRBENCH_CACHE).", **HELP)  # type: ignore[arg-type]  # one dict for all apps


@cache.command(epilog="Examples: bench cache ls · bench cache ls --json")
def ls(as_json: AsJson = False) -> None:
    """List what is stored, its size, and when it was last used."""
    from datetime import datetime

    from tabulate import tabulate

    from cirbench.benchmark.embedding.housekeeping import list_spaces
    from cirbench.benchmark.runtime.kept import find_cache_root, list_results

    entries = list_spaces(find_cache_root())
    if as_json:
        print_json([entry.as_dict() for entry in entries])
        return
    rows = [
        [
            entry.key[:12],
            "" if entry.is_current else "unused",
            *(entry.space.get(name, "?") for name in ("kind", "backbone", "precision", "device")),
            "damaged" if entry.rows() is None else f"{entry.rows():,}",
            f"{entry.bytes / 1e6:,.1f}",
            f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}",
        ]
        for entry in entries
    ]
    headers = ["key", "", "kind", "backbone", "precision", "device", "rows", "MB", "last used"]
    print(tabulate(rows, headers, disable_numparse=True))
    print(f"\n{sum(entry.bytes for entry in entries) / 1e6:,.1f} MB in {find_cache_root()}")
    results = list_results()
    megabytes = sum(path.stat().st_size for path in results) / 1e6
    print(f"{len(results):,} results computed of records, {megabytes:,.1f} MB")
    if not all(entry.is_current for entry in entries):
        print(f"{UNUSED}; bench cache prune removes what is old")


@cache.command(epilog="Examples: bench cache info 3f2a")
def info(
    key: Annotated[str, typer.Argument(help="The beginning of a key; bench cache ls.")],
) -> None:
    """Print everything that a space's key is made of."""
    from cirbench.benchmark.embedding.housekeeping import find_space
    from cirbench.benchmark.runtime.kept import find_cache_root

    print_json(find_space(find_cache_root(), key).as_dict())


@cache.command(epilog="Examples: bench cache verify · bench cache verify --repair")
def verify(
    sample: Annotated[
        int | None, typer.Option(min=1, help="Only so many shards of each space, at random.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged; it is computed again.")
    ] = False,
) -> None:
    """Read the shards and compare their checksums.

    Exit 4 if one was cut or altered, unless that is repaired.
    """
    from cirbench.benchmark.embedding import housekeeping as stored_cache
    from cirbench.benchmark.embedding.folders import explain_write_errors
    from cirbench.benchmark.runtime.files import remove
    from cirbench.benchmark.runtime.kept import find_cache_root

    checked = list(stored_cache.verify_spaces(stored_cache.list_spaces(find_cache_root()), sample))
    faults = {path: fault for path, fault in checked if fault}
    print(f"{len(checked) - len(faults)} shards are whole, {len(faults)} are not")
    if faults and not repair:
        raise CorruptData("\n".join(faults.values()))
    for path in faults:
        with explain_write_errors(path):
            remove(path)
        print(f"removed {path}")


@cache.command(
    epilog="Examples: bench cache export 3f2a 9c -o vit-l.tar · bench cache import vit-l.tar"
)
def export(
    keys: Annotated[list[str], typer.Argument(help="Beginnings of keys; bench cache ls.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="FILE.tar to write.")],
) -> None:
    """Write spaces into one file, for another machine."""
    from cirbench.benchmark.embedding.archive import export_spaces as write
    from cirbench.benchmark.embedding.housekeeping import find_space
    from cirbench.benchmark.runtime.kept import find_cache_root

    entries = [find_space(find_cache_root(), key) for key in keys]
    write(entries, output)
    print(f"{output}: {sum(entry.rows() or 0 for entry in entries):,} rows")


@cache.command("import", epilog="Examples: bench cache import vit-l.tar")
def import_spaces(
    archive: Annotated[Path, typer.Argument(help="What bench cache export wrote.")],
) -> None:
    """Add what another machine exported, if all of it is whole."""
    from cirbench.benchmark.embedding import archive as cache_archive
    from cirbench.benchmark.runtime.kept import find_cache_root

    for entry in cache_archive.import_spaces(archive, find_cache_root()):
        unused = "" if entry.is_current else f"; {UNUSED}"
        print(f"added {entry.key[:12]}, {entry.space.get('backbone', '?')}{unused}")


@cache.command(
    epilog="Examples: bench cache prune --older-than 30 · bench cache prune --max-size 50"
)
def prune(
    older_than: Annotated[
        float | None, typer.Option(min=0, help="Days since a run last used it.")
    ] = None,
    max_size: Annotated[
        float | None, typer.Option(min=0, help="Gigabytes to keep, the last used first.")
    ] = None,
) -> None:
    """Remove what is old or over a size, and what killed runs left."""
    from cirbench.benchmark.embedding.folders import explain_write_errors
    from cirbench.benchmark.embedding.housekeeping import (
        choose_to_prune,
        find_leftovers,
        list_spaces,
    )
    from cirbench.benchmark.runtime.files import remove
    from cirbench.benchmark.runtime.kept import find_cache_root, list_results

    if older_than is None and max_size is None:
        raise UsageError("nothing to prune: pass --older-than or --max-size")
    limit = None if max_size is None else int(max_size * 1e9)
    chosen = choose_to_prune(
        list_spaces(find_cache_root()), older_than_days=older_than, max_bytes=limit
    )
    for entry in chosen:
        with explain_write_errors(entry.folder):
            remove(entry.folder)
        backbone = entry.space.get("backbone", "?")
        print(f"removed {entry.key[:12]}, {backbone}, {entry.bytes / 1e6:,.1f} MB")
    print(f"{len(chosen)} removed")
    if older_than is not None and (results := list_results(older_than)):
        for path in results:
            with explain_write_errors(path):
                remove(path)
        print(f"removed {len(results):,} results computed of records")
    for path in find_leftovers(find_cache_root()):
        with explain_write_errors(path):
            remove(path)
        print(f"removed {path.name}, which a killed run left")
