"""Files of processes that were killed while they wrote."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cirbench.benchmark.runtime import files
from cirbench.benchmark.runtime.files import temporary_folder, write_whole

WRITER = """
import os, sys
from pathlib import Path
from cirbench.benchmark.runtime.files import temporary_folder, write_whole
with write_whole(Path(sys.argv[1])) as path:
    path.write_bytes(bytes(100_000))
    with temporary_folder(path.parent) as folder:
        (folder / "half").write_text("x", encoding="utf-8")
        print("writing", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """A process in the middle of a file and of a folder in `tmp_path/out`."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", WRITER, str(tmp_path / "out" / "a.npz")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"writing\n"
        yield process
        process.kill()


def write(path):
    files.remove_abandoned.cache_clear()
    with write_whole(path) as temporary:
        temporary.write_text("whole", encoding="utf-8")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_goes_with_the_next_file_of_the_folder(tmp_path, writer):
    writer.kill()
    writer.wait()
    assert len(names_in(tmp_path / "out")) == 2
    write(tmp_path / "out" / "another.json")
    assert names_in(tmp_path / "out") == ["another.json"]


def test_what_a_living_process_writes_stays(tmp_path, writer):
    before = names_in(tmp_path / "out")
    write(tmp_path / "out" / "another.json")
    assert names_in(tmp_path / "out") == sorted([*before, "another.json"])
    writer.communicate()
    assert names_in(tmp_path / "out") == ["a.npz", "another.json"]


@pytest.mark.parametrize("days", [0.9, 1.1])
def test_what_another_machine_writes_stays_for_a_day(tmp_path, writer, monkeypatch, days):
    monkeypatch.setattr(files, "_identify_home", lambda: "0123456789ab")
    writer.kill()
    writer.wait()
    for path in (tmp_path / "out").iterdir():
        then = path.stat().st_mtime - days * 86_400
        os.utime(path, (then, then))
    write(tmp_path / "out" / "b.json")
    assert len(names_in(tmp_path / "out")) == (3 if days < 1 else 1)


@pytest.mark.parametrize(
    "name",
    [".bashrc", ".a.json.x2.json", ".cirbench", ".a.cirbench-1-1-x", "a.cirbench-0123456789ab-1-x"],
)
def test_hidden_files_of_others_stay(tmp_path, name):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    os.utime(tmp_path / name, (1, 1))
    write(tmp_path / "b.json")
    assert names_in(tmp_path) == sorted([name, "b.json"])


def test_a_name_as_long_as_names_may_be_is_written(tmp_path):
    write(tmp_path / f"{'x' * 250}.json")
    write(tmp_path / os.fsdecode(("犬" * 83 + ".json").encode()))
    assert len(names_in(tmp_path)) == 2


def test_a_full_disk_names_the_file_and_leaves_no_piece(tmp_path):
    def fill():
        with write_whole(tmp_path / "a.json") as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.json").write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match="No space left") as error:
        fill()
    assert error.value.filename == str(tmp_path / "a.json")
    assert names_in(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "old"


def test_an_error_names_the_file_and_not_what_it_is_called_for_the_time_being(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        write(tmp_path / "a.json")
    assert (error.value.filename, error.value.filename2) == (str(tmp_path / "a.json"), None)
    assert names_in(tmp_path) == ["a.json"]


def test_a_file_and_its_name_are_on_the_disk_before_it_is_said_to_be_there(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(
        "os.fsync",
        lambda handle: (flushed.append(Path(f"/proc/self/fd/{handle}").readlink()), fsync(handle)),
    )
    with write_whole(tmp_path / "a.json") as temporary:
        temporary.write_text("whole", encoding="utf-8")
    assert flushed == [temporary, tmp_path]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_can_not_flush_is_written_all_the_same(tmp_path, monkeypatch, number):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refuse)
    write(tmp_path / "a.json")
    assert names_in(tmp_path) == ["a.json"]


def test_a_folder_for_the_time_being_is_gone_afterwards(tmp_path):
    with temporary_folder(tmp_path / "new") as folder:
        (folder / "a").touch()
    assert names_in(tmp_path / "new") == []
