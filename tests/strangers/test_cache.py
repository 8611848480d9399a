"""Stores of embeddings that are shared, cut, locked, imported and tampered with."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.embedding.shard import read_shard
from cirbench.benchmark.embedding.space import make_image_space
from cirbench.benchmark.embedding.store import Store
from cirbench.benchmark.runtime.kept import find_cache_root

RUN = ("run", "-m", "image-only", "-t", "emoji", "-b", "fake", "--limit", "1", "-q", "-o", "r")


ROW = torch.ones(1, 32)


def nothing_stored():
    return not [path for path in find_cache_root().rglob("*") if path.is_file()]


def out_records(out):
    """The records that `bench run --json` printed."""
    found = json.loads(out)
    return found if isinstance(found, list) else [found]


def space_folder():
    [key] = [
        path
        for path in find_cache_root().glob("embeddings/*/key.json")
        if json.loads(path.read_text(encoding="utf-8"))["kind"] == "image"
    ]
    return key.parent


def shard_of(values, names, space):
    header = {"space": space, "identities": names}
    content = save({"values": values}, {"cirbench": json.dumps(header)})
    return f"{hashlib.sha256(content).hexdigest()[:32]}.safetensors", content


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return name, member


def archive(tmp_path, values, names, extra=(), *, key=None, space=None):
    space = space or make_image_space(load_backbone("fake"), "clip")
    name, content = shard_of(values, names, space.canonical)
    folder = f"embeddings/{space.key}"
    key = space.canonical.encode() if key is None else key
    return write_tar(
        tmp_path / "a.tar", [(f"{folder}/key.json", key), (f"{folder}/{name}", content), *extra]
    )


BAD_ROWS = {
    "5 of 32 columns": (torch.ones(2, 5), ["a", "b"]),
    "a NaN": (torch.tensor([[torch.nan] * 32]), ["a"]),
    "an infinity": (torch.tensor([[torch.inf] * 32]), ["a"]),
    "fewer rows than names": (torch.ones(1, 32), ["a", "b"]),
    "more rows than names": (torch.ones(3, 32), ["a", "b"]),
    "whole numbers": (torch.ones(2, 32, dtype=torch.int64), ["a", "b"]),
    "one dimension": (torch.ones(32), ["a"]),
    "names that are no list": (torch.ones(1, 32), "a"),
    "names that are no texts": (torch.ones(2, 32), [["a"], 1]),
    "half precision": (torch.ones(1, 32, dtype=torch.float16), ["a"]),
    "no rows and no columns": (torch.ones(0, 0), []),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_an_archive_with_wrong_rows_is_refused_whole(refused, tmp_path, case):
    refused(4, "cache", "import", archive(tmp_path, *BAD_ROWS[case]))
    assert not list(find_cache_root().rglob("*.safetensors"))


def hole(name, size):
    """A member of many zeros that take no room (as GNU tar has them), and its header's bytes."""
    member = tarfile.TarInfo(name)
    member.type = tarfile.GNUTYPE_SPARSE
    buffer = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    buffer[386:398] = buffer[398:410] = b"00000000000\0"  # one piece, of nothing, at 0
    buffer[483:495] = f"{size:011o}\0".encode()
    buffer[148:156] = b" " * 8
    buffer[148:156] = f"{sum(buffer):06o}\0 ".encode()
    return bytes(buffer)


AA = "embeddings/" + "a" * 32 + "/"
HOSTILE = {
    "a climbing name": [("../out.txt", b"x")],
    "a name that climbs inside": [("embeddings/aa/../../out.safetensors", b"x")],
    "an absolute name": [("/tmp/out.txt", b"x")],
    "a link": [link(f"{AA}bb.safetensors", "/etc/passwd")],
    "a link to a hidden member": [(f"{AA}.h", b"x"), link(f"{AA}bb.safetensors", ".h")],
    "a hard link": [link(f"{AA}bb.safetensors", "x", tarfile.LNKTYPE)],
    "a device": [link(f"{AA}bb.safetensors", "", tarfile.CHRTYPE)],
    "a pipe": [link(f"{AA}bb.safetensors", "", tarfile.FIFOTYPE)],
    "a folder": [link(f"{AA}bb.safetensors", "", tarfile.DIRTYPE)],
    "a hidden file": [(f"{AA}.x.safetensors", b"x")],
    "another file": [("notes.txt", b"x")],
    "a file twice": [(f"{AA}key.json", b"{}"), (f"{AA}key.json", b"{}")],
    "a name with a line break": [(f"{AA}key.json\n", b"{}")],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_crafted_archive_is_refused_before_it_is_unpacked(refused, tmp_path, monkeypatch, case):
    monkeypatch.setattr(tarfile.TarFile, "extractall", None)
    good = archive(tmp_path, torch.ones(1, 32), ["a"], HOSTILE[case])
    refused(4, "cache", "import", good, says="must be a plain file of a store")
    assert nothing_stored()


def test_an_archive_of_holes_is_refused_before_it_is_unpacked(refused, tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(hole(f"{AA}bb.safetensors", 3 * 2**30) + bytes(1024))
    with tarfile.open(path) as tar:
        assert tar.getmembers()[0].size == 3 * 2**30
    refused(4, "cache", "import", path, says="must be a plain file of a store")
    assert nothing_stored()


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_is_not_unpacked(refused, tmp_path, mode):
    with tarfile.open(tmp_path / "bomb.tar", mode) as tar:
        member = tarfile.TarInfo("embeddings/aa/bb.safetensors")
        member.size = 2**20
        tar.addfile(member, io.BytesIO(bytes(2**20)))
    refused(4, "cache", "import", tmp_path / "bomb.tar", says="uncompressed tar file")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 600, bytes(2048)])
def test_what_is_no_archive_is_refused(refused, tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    refused(4, "cache", "import", tmp_path / "a.tar")


@pytest.mark.parametrize("kind", ["nothing", "folder", "pipe"])
def test_what_is_no_file_is_not_there(refused, tmp_path, kind):
    path = tmp_path / "a.tar"
    {"nothing": lambda: None, "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    refused(3, "cache", "import", path, says="bench cache export")


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(part=st.floats(0, 1))
@example(part=1)
def test_an_archive_that_was_cut_is_refused(refused, small_archive, part):
    with tarfile.open(fileobj=io.BytesIO(small_archive)) as tar:
        end = list(tar)[-1].offset  # between two members
    Path("a.tar").write_bytes(small_archive[: int(part * end)])
    refused(4, "cache", "import", "a.tar")
    assert nothing_stored()


@pytest.fixture(scope="module")
def small_archive(tmp_path_factory):
    """A good one."""
    return archive(tmp_path_factory.mktemp("archive"), ROW, ["a"]).read_bytes()


WRONG_SPACES = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe{",
    "a list": b"[]",
    "nested": b"[" * 100_000,
    "another space": b'{"kind": "image"}',
    "empty": b"",
}


@pytest.mark.parametrize("case", WRONG_SPACES)
def test_an_archive_with_a_wrong_description_is_refused(refused, tmp_path, case):
    path = archive(tmp_path, torch.ones(1, 32), ["a"], key=WRONG_SPACES[case])
    refused(4, "cache", "import", path, says="must be the hash of")
    assert nothing_stored()


def test_a_backbones_name_with_escapes_is_refused(refused, tmp_path):
    space = asdict(make_image_space(load_backbone("fake"), "clip")) | {"backbone": "\x1b[2J"}
    path = archive(tmp_path, torch.ones(1, 32), ["a"], key=json.dumps(space).encode())
    refused(4, "cache", "import", path, says="must be printable")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_an_archive_with_any_byte_changed_is_whole_or_refused(bench, small_archive, data):
    """Bytes that no checksum covers (owners, the padding behind a file) may change."""
    content = bytearray(small_archive)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    Path("a.tar").write_bytes(content)
    code, _, err = bench("cache", "import", "a.tar")
    assert code in (0, 4), err
    assert "Traceback" not in err
    if code == 4:
        assert nothing_stored()
    else:
        [shard] = find_cache_root().rglob("*.safetensors")
        assert torch.equal(load_file(shard)["values"], torch.ones(1, 32))
        shutil.rmtree(find_cache_root())


def export_all(bench, method="image-only"):
    """Runs a method, and carries all it stored to another cache."""
    bench(*RUN, "-m", method)
    keys = [path.parent.name for path in find_cache_root().glob("embeddings/*/key.json")]
    assert bench("cache", "export", *keys, "-o", "a.tar")[0] == 0
    return Path("a.tar")


def test_a_record_of_imported_rows_says_so(bench, tmp_path, monkeypatch):
    exported = export_all(bench, "text-only")
    monkeypatch.setenv("CIRBENCH_CACHE", str(tmp_path / "elsewhere"))
    assert bench("cache", "import", exported)[0] == 0
    code, out, _ = bench(*RUN, "-m", "text-only", "--json")
    image_only, text_only = out_records(out)
    pictures, queries = (text_only["counts"][name] for name in ("pictures", "queries"))
    assert code == 0
    assert image_only["run"]["imported_rows"] == pictures > 0
    assert text_only["run"]["imported_rows"] == pictures + queries
    assert text_only["counts"]["image_passes"] == 0
    assert ["imported" in remark for remark in text_only["annotations"]["remarks"]] == [True, True]
    shutil.rmtree(find_cache_root())
    bench(*RUN)
    [record] = out_records(bench(*RUN, "--json")[1])
    assert (record["run"]["imported_rows"], record["annotations"]["remarks"]) == (0, [])


def test_rows_of_ones_own_come_before_imported_ones(bench, tmp_path):
    bench(*RUN)
    [own] = space_folder().glob("*.safetensors")
    shard = read_shard(own)
    values = torch.ones(len(shard.identities), shard.width)
    assert bench("cache", "import", archive(tmp_path, values, list(shard.identities)))[0] == 0
    _, out, _ = bench(*RUN, "--json")
    [record] = out_records(out)
    assert record["run"]["imported_rows"] == 0
    own.unlink()
    [record] = out_records(bench(*RUN, "--json")[1])
    assert record["run"]["imported_rows"] == record["counts"]["pictures"]


def test_an_import_of_what_another_version_made_says_that_it_is_of_no_use(bench, tmp_path):
    space = replace(make_image_space(load_backbone("fake"), "clip"), packages={"torch": "1"})
    assert "unused" in bench("cache", "import", archive(tmp_path, ROW, ["a"], space=space))[1]
    assert "unused" not in bench("cache", "import", archive(tmp_path, ROW, ["a"]))[1]


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def folder_instead(path):
    path.unlink()
    path.mkdir()


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "cut": cut,
    "a flipped bit": flip,
    "a folder": folder_instead,
    "dangling": dangling,
    "a pipe": pipe,
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_shard_is_named_repaired_and_refreshed(bench, case):
    bench(*RUN)
    [shard] = space_folder().glob("*.safetensors")
    for mend in (("cache", "verify", "--repair"), (*RUN, "--cache", "refresh")):
        DAMAGE[case](shard)
        code, _, err = bench(*RUN)
        assert code == 4
        assert shard.name in err
        assert "--repair" in err
        assert bench("cache", "ls")[0] == 0
        assert bench("cache", "verify")[0] == 4
        assert bench(*mend)[0] == 0
        assert bench(*RUN)[0] == 0
        assert bench("cache", "verify")[0] == 0


@pytest.mark.parametrize("content", ["", "[]", "{", "\ud800", "[" * 100_000])
def test_a_damaged_space_stops_no_other(bench, content):
    bench(*RUN)
    bad = find_cache_root() / "embeddings" / "bad"
    bad.mkdir()
    (bad / "key.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert bench("cache", "ls")[0] == 0
    assert bench(*RUN)[0] == 0
    assert bench("cache", "verify")[0] == 4
    assert bench("cache", "verify", "--repair")[0] == 0
    assert not (bad / "key.json").exists()
    assert bench("cache", "verify")[0] == 0


@pytest.mark.parametrize("spoil", [cut, flip, folder_instead, dangling, pipe])
def test_a_damaged_description_costs_no_rows(bench, spoil):
    bench(*RUN)
    spoil(space_folder() / "key.json")
    assert bench("cache", "ls")[0] == 0
    assert bench("cache", "verify")[0] == 4
    assert "1 removed" not in bench("cache", "verify", "--repair")[1]
    code, out, _ = bench(*RUN, "--json")
    assert (code, json.loads(out)["counts"]["image_passes"]) == (0, 0)
    assert bench("cache", "verify")[0] == 0


def test_spaces_of_other_versions_are_left_and_said_to_be_unused(bench):
    bench(*RUN)
    key = space_folder() / "key.json"
    space = json.loads(key.read_text(encoding="utf-8"))
    key.write_text(json.dumps({**space, "packages": {"torch": "1"}}), encoding="utf-8")
    assert "unused" in bench("cache", "ls")[1]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_nobody_waits(bench, monkeypatch, number):
    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert bench(*RUN)[0] == 0
    assert bench(*RUN, "--cache", "refresh")[0] == 0


HOLDER = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def hold_lock(folder, names):
    """Another process that computes these rows, and does not end."""
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", HOLDER, str(folder / f".{digest}.lock")],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_another_process_is_waited_for_aloud_and_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("cirbench.benchmark.embedding.store._WAITED_SECONDS", (0.1, 0.2))
    said = []
    store = Store(tmp_path, make_image_space(load_backbone("fake"), "clip"))
    with hold_lock(store.folder, ["a"]), store.reserve(["a"], said.append):
        assert len(said) == 2
        assert "for another process" in said[0]


def test_a_lock_is_free_when_its_holder_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("cirbench.benchmark.embedding.store._WAITED_SECONDS", (0.1, 60))
    store = Store(tmp_path, make_image_space(load_backbone("fake"), "clip"))
    with hold_lock(store.folder, ["a"]) as process:
        with store.reserve(["a"], lambda _: process.kill()):
            pass
        assert process.wait() == -9


def forbid_writing(monkeypatch):
    """As for another user: root may write everywhere."""

    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for module in ("store", "shard", "contents"):
        monkeypatch.setattr(f"cirbench.benchmark.embedding.{module}.write_whole", forbidden)
    monkeypatch.setattr("os.access", lambda *_: False)


@pytest.mark.parametrize("lacking", [("-m", "text-only"), ("--split", "val")])
def test_another_users_store_is_read_without_a_write(bench, monkeypatch, lacking):
    assert bench(*RUN)[0] == 0
    forbid_writing(monkeypatch)
    assert bench(*RUN)[0] == 0
    encoded = []
    monkeypatch.setattr(
        "cirbench.benchmark.embedding.pictures.embed_together", lambda *_: encoded.append(1)
    )
    code, _, err = bench(*RUN, *lacking)
    assert (code, encoded) == (2, [])
    assert str(find_cache_root()) in err
    assert "--cache read-only" in err


def test_a_run_without_texts_opens_no_space_for_them(bench):
    assert bench(*RUN)[0] == 0
    assert len(list(find_cache_root().glob("embeddings/*"))) == 1


def test_a_store_that_lacks_rows_is_completed_in_memory(bench, monkeypatch):
    assert bench(*RUN)[0] == 0
    before = sorted(find_cache_root().rglob("*"))
    forbid_writing(monkeypatch)
    assert bench(*RUN, "-m", "text-only", "--cache", "read-only")[0] == 0
    assert sorted(find_cache_root().rglob("*")) == before


def test_a_store_that_everybody_can_write_is_said(bench):
    root = find_cache_root()
    root.mkdir(parents=True)
    root.chmod(0o777)
    loud = [part for part in RUN if part != "-q"]
    assert "every user of this machine can write" in bench(*loud)[2]
