"""Stores of embeddings that are shared, cut, locked, imported and tampered with."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cirbench.benchmark import encoding_code, files
from cirbench.benchmark.backbones import load_backbone
from cirbench.benchmark.interfaces import Mode
from cirbench.benchmark.store import Store, default_root, image_space, text_space

RUN = ("run", "-m", "image-only", "-t", "emoji", "-b", "fake", "--limit", "1", "-q", "-o", "r")


def space_folder():
    [key] = [path for path in default_root().glob("embeddings/*/key.json")
             if json.loads(path.read_text(encoding="utf-8"))["kind"] == "image"]  # fmt: skip
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


def archive(tmp_path, values, names, extra=()):
    space = image_space(load_backbone("fake"), "clip")
    name, content = shard_of(values, names, space.canonical)
    folder = f"embeddings/{space.key[:32]}"
    key = space.canonical.encode()
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
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_an_archive_with_wrong_rows_is_refused_whole(refused, tmp_path, case):
    refused(4, "cache", "import", archive(tmp_path, *BAD_ROWS[case]))
    assert not list(default_root().rglob("*.safetensors"))


HOSTILE = {
    "a climbing name": [("../out.txt", b"x")],
    "an absolute name": [("/tmp/out.txt", b"x")],
    "a link": [link("embeddings/" + "a" * 32 + "/" + "b" * 32 + ".safetensors", "/etc/passwd")],
    "a hard link": [link("embeddings/aa/bb.safetensors", "x", tarfile.LNKTYPE)],
    "a device": [link("embeddings/aa/bb.safetensors", "", tarfile.CHRTYPE)],
    "a hidden file": [("embeddings/aa/.x.safetensors", b"x")],
    "another file": [("notes.txt", b"x")],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_crafted_archive_is_refused_before_it_is_unpacked(refused, tmp_path, case):
    good = archive(tmp_path, torch.ones(1, 32), ["a"], HOSTILE[case])
    refused(4, "cache", "import", good, says="must be a plain file of a store")
    assert not [path for path in default_root().rglob("*") if path.is_file()]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_is_not_unpacked(refused, tmp_path, mode):
    with tarfile.open(tmp_path / "bomb.tar", mode) as tar:
        member = tarfile.TarInfo("embeddings/aa/bb.safetensors")
        member.size = 2**20
        tar.addfile(member, io.BytesIO(bytes(2**20)))
    refused(4, "cache", "import", tmp_path / "bomb.tar", says="not an uncompressed tar file")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 600])
def test_what_is_no_archive_is_refused(refused, tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    refused(4, "cache", "import", tmp_path / "a.tar")


def test_a_record_of_imported_rows_says_so(bench, tmp_path, monkeypatch):
    bench(*RUN)
    key = space_folder().name
    assert bench("cache", "export", key, "-o", "a.tar")[0] == 0
    monkeypatch.setenv("CIRBENCH_CACHE", str(tmp_path / "elsewhere"))
    assert bench("cache", "import", "a.tar")[0] == 0
    code, out, _ = bench(*RUN, "--json")
    record = json.loads(out)
    assert code == 0
    assert record["run"]["imported_rows"] == record["counts"]["pictures"] > 0
    assert record["counts"]["image_passes"] == 0
    assert "imported" in record["annotations"]["remarks"][0]


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


DAMAGE = {"cut": cut, "a flipped bit": flip, "a folder": folder_instead, "dangling": dangling}


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
    bad = default_root() / "embeddings" / "bad"
    bad.mkdir()
    (bad / "key.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert bench("cache", "ls")[0] == 0
    assert bench(*RUN)[0] == 0
    assert bench("cache", "verify")[0] == 4
    assert bench("cache", "verify", "--repair")[0] == 0
    assert not bad.exists()


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


def test_waiting_for_another_process_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("cirbench.benchmark.store._PATIENCE_SECONDS", 0.1)
    space, said = image_space(load_backbone("fake"), "clip"), []
    Store(tmp_path, space)
    holder = (
        "import sys, time; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(1)"
    )
    name = hashlib.sha256(b"a").hexdigest()[:16]
    lock = tmp_path / "embeddings" / space.key[:32] / f".{name}.lock"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", holder, str(lock)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        with Store(tmp_path, space).working_on(["a"], said.append):
            assert len(said) == 1


def test_another_users_store_is_read_without_a_write(bench, monkeypatch):
    assert bench(*RUN)[0] == 0

    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for module in ("store", "contents"):
        monkeypatch.setattr(f"cirbench.benchmark.{module}.written_whole", forbidden)
    assert bench(*RUN)[0] == 0
    code, _, err = bench(*RUN, "-m", "text-only")
    assert code == 2
    assert "--cache read-only" in err
    assert bench(*RUN, "-m", "text-only", "--cache", "read-only")[0] == 0


def test_a_store_that_everybody_can_write_is_said(bench):
    root = default_root()
    root.mkdir(parents=True)
    root.chmod(0o777)
    loud = [part for part in RUN if part != "-q"]
    assert "everybody can write" in bench(*loud)[2]


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from cirbench.benchmark.files import *\n"
        "with written_whole(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half', encoding='utf-8'); os.kill(os.getpid(), 9)"
    )
    target = tmp_path / "a.json"
    subprocess.run([sys.executable, "-P", "-c", script, str(target)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    in_work = tmp_path / f".a.json.{files._HOST}-{os.getpid()}-x.json"
    elsewhere = tmp_path / ".a.json.otherhost-1-x.json"
    for path in (in_work, elsewhere):
        path.touch()
    with files.written_whole(target) as path:
        path.write_text("whole", encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.json", in_work.name, elsewhere.name,
    }  # fmt: skip


def test_the_code_that_makes_a_vector_is_in_the_key(monkeypatch, tmp_path):
    backbone = load_backbone("fake")
    keys = {space(backbone).key for space in (lambda b: image_space(b, "clip"),
                                               lambda b: text_space(b, truncate=True))}  # fmt: skip
    for name in ("images.py", "preprocess.py", "embed.py", "texts.py"):
        path = Path(encoding_code.__file__).parent / name
        before = path.read_text(encoding="utf-8")
        assert encoding_code.strip(f"# a remark\n{before}") == encoding_code.strip(before)
        assert encoding_code.strip(f"{before}\nx = 1") != encoding_code.strip(before)
        changed = {str(path): f"{before}\nx = 1"}
        real = Path.read_text
        monkeypatch.setattr(
            Path, "read_text",
            lambda self, changed=changed, real=real, **k: changed.get(str(self)) or real(self, **k),
        )  # fmt: skip
        encoding_code.code_sha256.cache_clear()
        keys |= {image_space(backbone, "clip").key, text_space(backbone, truncate=True).key}
        monkeypatch.undo()
    encoding_code.code_sha256.cache_clear()
    assert len(keys) == 10


def test_a_backbones_name_is_in_no_key():
    backbone = load_backbone("fake")
    key = image_space(backbone, "clip").key
    backbone.name = "another"
    assert image_space(backbone, "clip").key == key


def test_what_else_can_change_a_vector_is_in_the_key():
    backbone = load_backbone("fake")
    spaces = [image_space(backbone, "clip"), image_space(backbone, "targetpad"),
              text_space(backbone, truncate=True), text_space(backbone, truncate=False),
              text_space(backbone, truncate=True, checkpoint="c")]  # fmt: skip
    for name in ("weights_sha256", "architecture_sha256", "tokenizer_sha256", "precision"):
        changed = load_backbone("fake")
        setattr(changed, name, "other")
        spaces.append(text_space(changed, truncate=True))
    assert len({space.key for space in spaces}) == len(spaces)
    store = Store(default_root(), spaces[0], Mode.READ_ONLY)
    assert store.missing(["a", "a", "b"]) == ["a", "b"]
