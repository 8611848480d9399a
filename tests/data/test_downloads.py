"""Fetching from a server of our own: resumed, checked, unpacked without leaving the folder."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import pytest

from cirbench.benchmark.api.task import Download
from cirbench.benchmark.data.downloads import fetch
from cirbench.benchmark.runtime.archives import unpack
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.progress import Reporter

CONTENT = bytes(range(256)) * 5000
QUIET = Reporter(quiet=True)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT at /file, with ranges; remembers what was asked for."""

    asked: list[str | None]

    def do_GET(self):
        if self.path != "/file":
            self.send_error(404, "Not Found")
            return
        wanted = self.headers["Range"]
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.asked = handler.asked
        running.url = f"http://127.0.0.1:{running.server_port}"
        yield running
        running.shutdown()


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
