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
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cirbench.benchmark import encoding_code
from cirbench.benchmark.backbones import load_backbone
from cirbench.benchmark.space import image_space, text_space
from cirbench.benchmark.store import Mode, Store, default_root

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
    folder = f"embeddings/{space.key}"
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
    refused(
        4, "cache", "import", tmp_path / "bomb.tar", says="must be a whole, uncompressed tar file"
    )


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


def pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {"cut": cut, "a flipped bit": flip, "a folder": folder_instead, "dangling": dangling,
          "a pipe": pipe}  # fmt: skip


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
    monkeypatch.setattr("cirbench.benchmark.store._WAITED_SECONDS", (0.1, 0.2))
    said = []
    store = Store(tmp_path, image_space(load_backbone("fake"), "clip"))
    with hold_lock(store.folder, ["a"]), store.working_on(["a"], said.append):
        assert len(said) == 2
        assert "for another process" in said[0]


def test_a_lock_is_free_when_its_holder_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("cirbench.benchmark.store._WAITED_SECONDS", (0.1, 60))
    store = Store(tmp_path, image_space(load_backbone("fake"), "clip"))
    with hold_lock(store.folder, ["a"]) as process:
        with store.working_on(["a"], lambda _: process.kill()):
            pass
        assert process.wait() == -9


def forbid_writing(monkeypatch):
    """As for another user: root may write everywhere."""

    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for module in ("store", "shard", "contents"):
        monkeypatch.setattr(f"cirbench.benchmark.{module}.written_whole", forbidden)
    monkeypatch.setattr("os.access", lambda *_: False)


@pytest.mark.parametrize("lacking", [("-m", "text-only"), ("--split", "val")])
def test_another_users_store_is_read_without_a_write(bench, monkeypatch, lacking):
    assert bench(*RUN)[0] == 0
    forbid_writing(monkeypatch)
    assert bench(*RUN)[0] == 0
    encoded = []
    monkeypatch.setattr("cirbench.benchmark.embed.embed_together", lambda *_: encoded.append(1))
    code, _, err = bench(*RUN, *lacking)
    assert (code, encoded) == (2, [])
    assert str(default_root()) in err
    assert "--cache read-only" in err


def test_a_store_that_lacks_rows_is_completed_in_memory(bench, monkeypatch):
    assert bench(*RUN)[0] == 0
    before = sorted(default_root().rglob("*"))
    forbid_writing(monkeypatch)
    assert bench(*RUN, "-m", "text-only", "--cache", "read-only")[0] == 0
    assert sorted(default_root().rglob("*")) == before


def test_a_store_that_everybody_can_write_is_said(bench):
    root = default_root()
    root.mkdir(parents=True)
    root.chmod(0o777)
    loud = [part for part in RUN if part != "-q"]
    assert "everybody can write" in bench(*loud)[2]


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
