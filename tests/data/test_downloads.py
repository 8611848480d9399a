"""Fetching from a server of our own: resumed, checked, unpacked without leaving the folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from serving import serve_files

from cirbench.benchmark.api.task import Download
from cirbench.benchmark.data.downloads import fetch
from cirbench.benchmark.runtime.archives import unpack
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.progress import Reporter

CONTENT = bytes(range(256)) * 5000
QUIET = Reporter(quiet=True)


@pytest.fixture
def server():
    with serve_files() as running:
        running.contents["/file"] = CONTENT
        yield running


def download(server, **changes):
    known = {"checksum": f"sha256:{hashlib.sha256(CONTENT).hexdigest()}", "path": "a/file.bin"}
    return Download(url=f"{server.url}/file", **{**known, **changes})


def test_a_file_is_fetched_once(server, tmp_path):
    assert "fetched" in fetch(download(server), tmp_path, QUIET)
    assert (tmp_path / "a/file.bin").read_bytes() == CONTENT
    assert "there" in fetch(download(server), tmp_path, QUIET)
    assert len(server.asked) == 1


@pytest.mark.parametrize("have", [1, 300_000, len(CONTENT)])
def test_what_broke_off_is_gone_on_with(server, tmp_path, have):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file.bin.part").write_bytes(CONTENT[:have])
    fetch(download(server), tmp_path, QUIET)
    assert server.asked == [f"bytes={have}-"]
    assert (tmp_path / "a/file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [None, f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"])
def test_half_an_answer_is_no_file_and_is_gone_on_with(server, tmp_path, checksum):
    server.cuts = 1
    with pytest.raises(MissingData, match=r"broke off 640,000 bytes before .* run the same comm"):
        fetch(download(server, checksum=checksum), tmp_path, QUIET)
    assert not (tmp_path / "a/file.bin").exists()
    fetch(download(server, checksum=checksum), tmp_path, QUIET)
    assert server.asked == [None, "bytes=640000-"]
    assert (tmp_path / "a/file.bin").read_bytes() == CONTENT


def test_a_full_disk_is_told_as_one(server, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no disk that is full")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file.bin.part").symlink_to("/dev/full")
    with pytest.raises(MissingData, match="No space left on device"):
        fetch(download(server), tmp_path, QUIET)
    assert not (tmp_path / "a/file.bin").exists()


def test_another_checksum_is_refused_and_nothing_is_kept(server, tmp_path):
    with pytest.raises(CorruptData, match="sha256"):
        fetch(download(server, checksum="sha256:0"), tmp_path, QUIET)
    assert list((tmp_path / "a").iterdir()) == []


def test_a_file_that_was_there_and_is_wrong_stays(server, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file.bin").write_bytes(b"mine")
    with pytest.raises(CorruptData, match="fetch it again"):
        fetch(download(server), tmp_path, QUIET)
    assert (tmp_path / "a/file.bin").read_bytes() == b"mine"


def test_a_zip_of_another_commit_and_what_is_no_zip_are_refused(server, tmp_path):
    wanted = "git-commit:c0ffee"
    with pytest.raises(CorruptData, match="git-commit c0ffee, got none"):
        fetch(download(server, checksum=wanted), tmp_path, QUIET)
    path = tmp_path / "a/file.bin"
    for comment, right in ((b"", False), (b"decaf", False), (b"c0ffee", True)):
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = comment
        if right:
            assert "there" in fetch(download(server, checksum=wanted), tmp_path, QUIET)
        else:
            with pytest.raises(CorruptData, match=f"got {comment.decode() or 'none'}; fetch it"):
                fetch(download(server, checksum=wanted), tmp_path, QUIET)


def test_a_missing_checksum_is_said(server, tmp_path):
    assert "no checksum" in fetch(download(server, checksum=None), tmp_path, QUIET)


def test_an_answer_that_is_no_file_and_a_dead_server(server, tmp_path):
    with pytest.raises(MissingData, match="404"):
        fetch(Download(url=f"{server.url}/other", path="b"), tmp_path, QUIET)
    with pytest.raises(MissingData, match=r"cannot be fetched .* put the file at"):
        fetch(Download(url="http://127.0.0.1:9/file", path="new/b"), tmp_path, QUIET)
    assert not (tmp_path / "new").exists()  # it would pass for data


def zipped(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def tarred(path, names):
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_is_unpacked_beside_itself(tmp_path, pack):
    pack(tmp_path / "archive", ["top/a.txt", "top/b/c.txt"])
    unpack(tmp_path / "archive", tmp_path)
    assert (tmp_path / "top/b/c.txt").read_bytes() == b"x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive", "top"]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../out.txt", "top/../../out.txt"])
def test_a_path_that_climbs_out_unpacks_nothing(tmp_path, pack, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    pack(folder / "archive", ["top/a.txt", name])
    with pytest.raises(CorruptData, match="archive"):
        unpack(folder / "archive", folder)
    assert [p.name for p in tmp_path.rglob("*")] == ["folder", "archive"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_damaged_archive_is_named(tmp_path, pack):
    pack(tmp_path / "archive", ["top/a.txt"])
    (tmp_path / "archive").write_bytes((tmp_path / "archive").read_bytes()[:40])
    with pytest.raises(CorruptData, match=r"cannot be unpacked"):
        unpack(tmp_path / "archive", tmp_path)
