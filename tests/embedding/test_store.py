"""The store of embeddings: keys, shards, sharing, damage, and what a run does with it."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from making import Stage
from pydantic import TypeAdapter
from typer.testing import CliRunner

from cirbench.benchmark.api.values import Mode
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.cli.main import app
from cirbench.benchmark.embedding import pictures as embed_module
from cirbench.benchmark.embedding.contents import ContentHashes
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, embed_through_stores
from cirbench.benchmark.embedding.shard import check_shard
from cirbench.benchmark.embedding.space import Space, make_image_space
from cirbench.benchmark.embedding.store import Store, make_identity
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.images.reading import find_images_in_folder, make_file_ref
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.kept import find_cache_root, keep
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.emoji.pictures import PACK

SPACE = Space(
    kind="image",
    backbone="fake",
    weights="w",
    architecture="a",
    preprocess="p",
    precision="fp32",
    device="cpu",
    packages={"torch": "2"},
)
OTHER = {
    "kind": "text",
    "weights": "w2",
    "architecture": "a2",
    "preprocess": "p2",
    "precision": "bf16",
    "device": "cuda",
    "packages": {"torch": "3"},
    "code": "d2",
    "checkpoint": "c2",
    "tokenizer": "t2",
    "width": 4,
    "plug_in": "p2",
}
FAULTS = int(os.environ.get("CIRBENCH_TEST_FAULTS", "3"))
"""How many kills; `make faults` has thirty."""


def test_every_field_has_another_value():
    assert OTHER.keys() == {field.name for field in fields(Space)} - {"backbone"}


@pytest.mark.parametrize("name", OTHER)
def test_any_field_changes_the_key(name):
    assert replace(SPACE, **{name: OTHER[name]}).key != SPACE.key


def test_the_number_of_a_device_is_in_no_key():
    backbone = load_backbone("fake")
    keys = set()
    for device in ("cuda:0", "cuda:1", "cpu"):
        backbone.device = torch.device(device)
        keys.add(make_image_space(backbone, "clip").key)
    assert len(keys) == 2


def test_batch_size_and_workers_are_in_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("CIRBENCH_CACHE", str(tmp_path / "cache"))
    passes = [
        next(run(plan(request(tmp_path, **how)), Reporter(quiet=True))).counts.image_passes
        for how in ({"batch_size": 64, "workers": 2}, {"batch_size": 7, "workers": 1})
    ]
    assert passes == [750, 0]


def test_rows_are_found_by_content_in_any_order(tmp_path):
    store = Store(tmp_path, SPACE)
    assert store.find_missing(["a", "b", "a"]) == ["a", "b"]
    values = torch.randn(3, 4)
    store.add(["a", "b", "c"], values)
    again = Store(tmp_path, SPACE)
    assert again.find_missing(["c", "x", "a"]) == ["x"]
    assert torch.equal(again.read_rows(["c", "a", "c"]), values[[2, 0, 2]])
    assert Store(tmp_path, replace(SPACE, weights="w2")).find_missing(["a"]) == ["a"]


def test_the_key_lies_beside_the_data(tmp_path):
    store = Store(tmp_path, SPACE)
    assert json.loads((store.folder / "key.json").read_text(encoding="utf-8"))["weights"] == "w"


def one_shard(root, space=SPACE):
    store = Store(root, space)
    store.add(["a", "b"], torch.ones(2, 3))
    [path] = store.folder.glob("*.safetensors")
    return path


@pytest.mark.parametrize("name", OTHER)
def test_a_foreign_shard_is_refused_with_the_differing_field(tmp_path, name):
    foreign = one_shard(tmp_path, replace(SPACE, **{name: OTHER[name]}))
    ours = Store(tmp_path, SPACE)
    shutil.copy(foreign, ours.folder)
    with pytest.raises(CorruptData, match=f"another space: {name} ") as error:
        ours.find_missing(["a"])
    assert foreign.name in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_a_damaged_shard_is_named_and_exits_4(tmp_path, damage):
    path = one_shard(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "altered":
        content[-1] ^= 1
    path.write_bytes({"cut": content[:-5], "altered": content, "empty": b""}[damage])
    with pytest.raises(CorruptData, match=path.name) as error:
        Store(tmp_path, SPACE).find_missing(["a"])
    assert error.value.exit_code == 4


def test_the_part_of_a_picture_is_in_its_identity():
    assert make_identity("s") == "s"
    assert (
        len(
            {make_identity("s"), make_identity("s", (0, 0, 1, 1)), make_identity("s", (0, 0, 1, 2))}
        )
        == 3
    )


def test_a_folder_that_can_not_be_written_says_what_to_do(tmp_path):
    (tmp_path / "embeddings").write_text("a file", encoding="utf-8")
    with pytest.raises(UsageError, match="--cache off"):
        Store(tmp_path, SPACE)


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_clear_error_and_leaves_no_piece(tmp_path, monkeypatch):
    whole = one_shard(tmp_path)
    store = Store(tmp_path, SPACE)
    monkeypatch.setattr(Path, "write_bytes", no_room)
    with pytest.raises(UsageError, match=r"No space left.*bench cache prune.*--cache off"):
        store.add(["c"], torch.ones(1, 3))
    assert {path.name for path in store.folder.iterdir()} == {whole.name, "key.json"}
    assert Store(tmp_path, SPACE, Mode.READ_ONLY).find_missing(["a", "c"]) == ["c"]


def test_a_full_disk_stops_the_memory_of_contents_clearly(tmp_path, picture, monkeypatch):
    (tmp_path / "a.png").write_bytes(picture(0))
    monkeypatch.setattr("cirbench.benchmark.embedding.contents.SETTLED_NANOSECONDS", -(10**9))
    monkeypatch.setattr(Path, "write_text", no_room)
    with pytest.raises(UsageError, match="No space left"):
        ContentHashes(root=tmp_path).hash_pictures(
            [make_file_ref(tmp_path / "a.png", "a")], Stage(), 1
        )


def test_without_locks_work_goes_on(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    store = Store(tmp_path, SPACE)
    with store.reserve(["a"]):
        store.add(["a"], torch.ones(1, 3))
    assert store.find_missing(["a"]) == []


def test_a_lock_that_a_dead_process_left_is_free(tmp_path):
    script = (
        "import os, sys; from pathlib import Path\n"
        "from cirbench.benchmark.embedding.space import Space\n"
        "from cirbench.benchmark.embedding.store import Store\n"
        f"store = Store(Path(sys.argv[1]), Space(**{asdict(SPACE)!r}))\n"
        "with store.reserve(['a']): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-P", "-c", script, str(tmp_path)], check=False)
    store = Store(tmp_path, SPACE)
    assert list(store.folder.glob(".*.lock"))
    with store.reserve(["a"]):
        pass


def test_another_architecture_with_the_same_weights_is_another_space(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(PACK.folder / "clip", folder)
    config = folder / "open_clip_config.json"

    def space():
        backbone = load_backbone(f"local-dir:{folder}")
        return make_image_space(backbone, "clip")

    before = space()
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["model_cfg"]["vision_cfg"]["head_width"] = 32
    config.write_text(json.dumps(settings), encoding="utf-8")
    after = space()
    assert after.weights == before.weights
    assert after.architecture != before.architecture
    assert after.key != before.key


def test_the_same_model_is_the_same_space_in_every_process():
    script = (
        "from cirbench.benchmark.backbones.load import load_backbone\n"
        "print(load_backbone('emoji-clip').architecture_sha256)"
    )
    told = [
        subprocess.run(
            [sys.executable, "-P", "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
            encoding="utf-8",
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert told[0] == told[1] == load_backbone("emoji-clip").architecture_sha256


# Content hashes


def test_a_file_is_hashed_once_and_again_when_it_changes(tmp_path, picture, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(picture(0))
    os.utime(path, (1e9, 1e9))
    monkeypatch.setattr("cirbench.benchmark.embedding.contents.SETTLED_NANOSECONDS", -(10**9))
    hashed = []
    monkeypatch.setattr(
        "cirbench.benchmark.embedding.contents.sha256_of_file",
        lambda p: hashed.append(p) or str(len(hashed)),
    )

    def sha256():
        return ContentHashes(root=tmp_path / "c").hash_pictures(
            [make_file_ref(path, "a")], Stage(), 1
        )

    assert [sha256(), sha256()] == [["1"], ["1"]]
    path.write_bytes(picture(1))
    os.utime(path, (1e9, 1e9 + 1))
    assert sha256() == ["2"]


def test_a_file_rewritten_in_place_with_its_old_time_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("cirbench.benchmark.embedding.contents.SETTLED_NANOSECONDS", -(10**9))
    path, found = tmp_path / "a.png", []
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, (1e9, 1e9))
        found += ContentHashes(root=tmp_path / "c").hash_pictures(
            [make_file_ref(path, "a")], Stage(), 1
        )
        time.sleep(0.02)  # beyond the grain of the file system's clock
    assert found == [hashlib.sha256(content).hexdigest() for content in (b"one", b"two")]


def test_read_only_remembers_what_it_finds_and_adds_nothing(tmp_path, picture, monkeypatch):
    monkeypatch.setattr("cirbench.benchmark.embedding.contents.SETTLED_NANOSECONDS", -(10**9))
    refs = []
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
        refs.append(make_file_ref(tmp_path / f"{i}.png", str(i)))
    ContentHashes(root=tmp_path).hash_pictures(refs[:1], Stage(), 1)
    [memory] = (tmp_path / "contents").iterdir()
    before = memory.read_bytes()
    read = []
    monkeypatch.setattr(
        "cirbench.benchmark.embedding.contents.sha256_of_file",
        lambda path: read.append(path) or "s",
    )
    ContentHashes(root=tmp_path, read_only=True).hash_pictures(refs, Stage(), 1)
    assert read == [refs[1].path]
    assert memory.read_bytes() == before


def test_a_file_just_written_is_not_remembered(tmp_path, picture, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(picture(0))
    contents = ContentHashes(root=tmp_path / "c")
    contents.hash_pictures([make_file_ref(path, "a")], Stage(), 1)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"[",
        lambda content: content[:-1],
        lambda content: content.replace(b"a.png", b"b.png"),
        lambda content: content[:-5] + (b"0" if content[-5:-4] == b"1" else b"1") + content[-4:],
        lambda content: b'{"a.png": 5}',
        lambda content: b"\xff\n" + content,
    ],
)
def test_a_damaged_memory_is_no_obstacle(tmp_path, picture, monkeypatch, damage):
    path = tmp_path / "a.png"
    path.write_bytes(picture(0))
    monkeypatch.setattr("cirbench.benchmark.embedding.contents.SETTLED_NANOSECONDS", -(10**9))
    first = ContentHashes(root=tmp_path).hash_pictures([make_file_ref(path, "a")], Stage(), 1)
    [memory] = (tmp_path / "contents").iterdir()
    memory.write_bytes(damage(memory.read_bytes()))
    assert (
        ContentHashes(root=tmp_path).hash_pictures([make_file_ref(path, "a")], Stage(), 1) == first
    )


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(MissingData, match=r"picture a: .*gone\.png"):
        ContentHashes(root=tmp_path).hash_pictures(
            [make_file_ref(tmp_path / "gone.png", "a")], Stage(), 1
        )


# Embedding through the store


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("cirbench.benchmark.embedding.pictures.SHARD_ROWS", 5)


class Counting:
    """The fake backbone, with a count of the pictures it was shown."""

    def __init__(self):
        self.inner = load_backbone("fake")
        self.image_spec, self.seen = self.inner.image_spec, 0
        self.device = self.inner.device
        self.embedding_width = self.inner.embedding_width

    def encode_images(self, pixels):
        self.seen += len(pixels)
        return self.inner.encode_images(pixels)


def embedder(backbone, batch_size=4):
    return Embedder(
        backbone=backbone,
        preprocess="clip",
        size=BatchSize(value=batch_size),
        workers=2,
        stage=Stage(),
    )


def embed(root, refs, mode=Mode.USE, batch_size=4, space=SPACE):
    backbone, contents = Counting(), ContentHashes(root=root)
    store = Store(root, space, mode)
    [found] = embed_through_stores(
        [embedder(backbone, batch_size)], refs, [store], contents, Stage()
    )
    assert found.passes == backbone.seen
    return found


def test_two_towers_share_one_decoding_and_store_what_each_alone_would(
    tmp_path, picture_folder, small_shards, monkeypatch
):
    refs = find_images_in_folder(picture_folder)
    spaces = [SPACE, replace(SPACE, backbone="other", weights="w2")]
    alone = [embed(tmp_path / "alone", refs, space=space) for space in spaces]
    embed(tmp_path / "joint", refs[:5], space=spaces[1])
    decoded, real = [], embed_module.load_encoded
    monkeypatch.setattr(
        embed_module,
        "load_encoded",
        lambda ref, *more: (decoded.append(ref.id), real(ref, *more))[1],
    )
    embedders = [embedder(Counting()) for _ in spaces]
    stores = [Store(tmp_path / "joint", space) for space in spaces]
    contents = ContentHashes(root=tmp_path / "joint")
    joint = embed_through_stores(embedders, refs, stores, contents, Stage())
    assert sorted(decoded) == sorted(ref.id for ref in refs)
    assert [found.passes for found in joint] == [24, 19]
    assert [one.backbone.seen for one in embedders] == [24, 19]
    for found, wanted in zip(joint, alone, strict=True):
        torch.testing.assert_close(found.values, wanted.values, rtol=0, atol=1e-5)
    shards = [
        {p.name for p in (tmp_path / root).rglob(f"{SPACE.key}/*.safetensors")}
        for root in ("alone", "joint")
    ]
    assert shards[0] == shards[1]


def test_a_second_run_encodes_nothing_and_gives_the_same(tmp_path, picture_folder, small_shards):
    refs = find_images_in_folder(picture_folder)
    first, second = embed(tmp_path, refs), embed(tmp_path, refs)
    assert (first.passes, second.passes) == (24, 0)
    assert torch.equal(first.values, second.values)
    assert first.sha256 == second.sha256
    assert first.fingerprint(refs) == second.fingerprint(refs)


def test_a_moved_folder_and_a_renamed_file_cost_nothing(tmp_path, picture_folder):
    before = embed(tmp_path, find_images_in_folder(picture_folder))
    moved = tmp_path / "elsewhere"
    shutil.move(picture_folder, moved)
    (moved / "00.png").rename(moved / "zz.png")
    refs = find_images_in_folder(moved)
    after = embed(tmp_path, refs)
    assert after.passes == 0
    assert torch.equal(after.of(refs[-1:]), before.values[:1])


def test_the_same_picture_under_two_names_is_encoded_once(tmp_path, picture_folder):
    shutil.copy(picture_folder / "00.png", picture_folder / "copy.png")
    found = embed(tmp_path, find_images_in_folder(picture_folder))
    assert found.passes == 24
    assert torch.equal(found.values[0], found.values[-1])


def test_only_what_is_new_is_encoded(tmp_path, picture_folder, picture, small_shards):
    embed(tmp_path, find_images_in_folder(picture_folder)[:7])
    assert embed(tmp_path, find_images_in_folder(picture_folder)).passes == 17


def test_a_box_is_another_row_than_the_whole(tmp_path, picture_folder):
    whole = find_images_in_folder(picture_folder)[0]
    part = replace(whole, id="part", box=(0, 0, 5, 9))
    found = embed(tmp_path, [whole, part])
    assert found.passes == 2
    assert not torch.allclose(found.values[0], found.values[1])


def test_refresh_encodes_again_and_read_only_writes_nothing(tmp_path, picture_folder):
    refs = find_images_in_folder(picture_folder)
    embed(tmp_path, refs[:10])
    files = sorted((tmp_path / "embeddings").rglob("*"))
    read = embed(tmp_path, refs, Mode.READ_ONLY)
    assert read.passes == 14
    assert sorted((tmp_path / "embeddings").rglob("*")) == files
    again = embed(tmp_path, refs[:10], Mode.REFRESH)
    assert again.passes == 10
    assert torch.equal(again.values, read.values[:10])
    assert embed(tmp_path, refs[:10]).passes == 0


@pytest.mark.parametrize("batch_size", [1, 3, 24])
def test_the_batch_size_changes_no_vector_beyond_rounding(tmp_path, picture_folder, batch_size):
    refs = find_images_in_folder(picture_folder)
    first = embed(tmp_path / "a", refs, batch_size=8)
    other = embed(tmp_path / "b", refs, batch_size=batch_size)
    assert torch.allclose(first.values, other.values, atol=1e-5)


def test_a_picture_that_changes_while_it_is_read_is_refused(tmp_path, picture_folder, picture):
    refs = find_images_in_folder(picture_folder)
    changed = replace(refs[3], read=lambda: picture(99))
    with pytest.raises(CorruptData, match=r"03\.png changed"):
        embed(tmp_path, [*refs[:3], changed])


# Several processes, and kills

SCRIPT = """
import sys, time
from pathlib import Path
import cirbench.benchmark.embedding.pictures as embed
from cirbench.benchmark.api.values import Mode
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.embedding.contents import ContentHashes
from cirbench.benchmark.images.reading import find_images_in_folder
from cirbench.benchmark.embedding.space import Space
from cirbench.benchmark.embedding.store import Mode, Store
embed.SHARD_ROWS = 4
class Slow:
    def __init__(self):
        self.inner = load_backbone("fake"); self.image_spec = self.inner.image_spec
        self.device = self.inner.device
    def encode_images(self, pixels):
        time.sleep(0.02)
        return self.inner.encode_images(pixels)
class Stage:
    def advance(self, count): pass
root, folder = map(Path, sys.argv[1:3])
backbone = Slow()
space = Space(kind="image", backbone="fake", weights="w", architecture="a", preprocess="p",
              precision="fp32", device="cpu", packages={"torch": "2"})
embedder = embed.Embedder(backbone=backbone, preprocess="clip",
                          size=embed.BatchSize(value=4), workers=1, stage=Stage())
print("ready", flush=True)
refs = find_images_in_folder(folder)
[found] = embed.embed_through_stores([embedder], refs, [Store(root, space)],
                              ContentHashes(root=root), Stage())
print(found.passes)
"""


def start(root, folder):
    return subprocess.Popen(
        [sys.executable, "-P", "-c", SCRIPT, str(root), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def shards(root):
    paths = (root / "embeddings").rglob("[!.]*.safetensors")
    return {path.name: path.read_bytes() for path in paths}


def test_eight_processes_that_compute_one_key_leave_one_of_each_shard(tmp_path, picture_folder):
    running = [start(tmp_path / "shared", picture_folder) for _ in range(8)]
    passes = [int(process.communicate()[0].split()[-1]) for process in running]
    assert [process.returncode for process in running] == [0] * 8
    assert sum(passes) == 24
    assert len(shards(tmp_path / "shared")) == 6


def test_kills_and_a_resume_leave_the_bytes_of_an_unbroken_run(tmp_path, picture_folder):
    start(tmp_path / "whole", picture_folder).communicate()
    rng = random.Random(0)
    for _ in range(FAULTS):
        process = start(tmp_path / "killed", picture_folder)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    passes = int(start(tmp_path / "killed", picture_folder).communicate()[0].split()[-1])
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")
    assert passes <= 24


# Runs


def request(tmp_path, **changes):
    return Request(
        methods=("image-only",),
        task="emoji",
        split="val",
        backbone="fake",
        output=tmp_path / "results",
        **changes,
    )


def test_a_warm_run_has_the_cold_ones_metrics_and_says_what_it_encoded(tmp_path):
    cold, warm, off = (
        next(run(plan(request(tmp_path, cache=mode)), Reporter(quiet=True)))
        for mode in ("use", "use", "off")
    )
    assert [d.counts.image_passes for d in (cold, warm, off)] == [750, 0, 750]
    assert [d.counts.pictures for d in (cold, warm, off)] == [750] * 3
    assert cold.metrics == warm.metrics == off.metrics
    assert cold.fingerprints == warm.fingerprints == off.fingerprints
    assert [d.run.cache for d in (cold, off)] == ["use", "off"]


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(UsageError, match="use, refresh, read-only, off"):
        plan(request(tmp_path, cache="always"))


# bench cache


@pytest.fixture
def cached(tmp_path):
    """Two spaces in the test's cache."""
    root = tmp_path / "cache"
    assert find_cache_root() == root
    return [one_shard(root), one_shard(root, replace(SPACE, backbone="other", weights="w2"))]


def bench(*arguments):
    return CliRunner().invoke(app, ["cache", *map(str, arguments)])


def test_ls_and_info(cached):
    listed = json.loads(bench("ls", "--json").stdout)
    assert {(e["backbone"], e["rows"]) for e in listed} == {("fake", 2), ("other", 2)}
    assert "other" in bench("ls").stdout
    told = json.loads(bench("info", cached[1].parent.name[:8]).stdout)
    assert (told["backbone"], told["weights"], told["shards"]) == ("other", "w2", 1)
    assert isinstance(bench("info", "nothing").exception, UsageError)


def test_verify_names_the_damaged(cached):
    assert "2 shards are whole, 0 are not" in bench("verify").stdout
    cached[0].write_bytes(cached[0].read_bytes()[:-1])
    found = bench("verify")
    assert isinstance(found.exception, CorruptData)
    assert cached[0].name in str(found.exception)
    assert "1 shards are whole, 1 are not" in found.stdout


def test_verify_names_a_shard_in_a_foreign_folder(cached):
    shutil.copy(cached[0], cached[1].parent)
    found = bench("verify")
    assert "2 shards are whole, 1 are not" in found.stdout
    assert "another space: weights w instead of w2" in str(found.exception)


def test_a_space_of_a_newer_version_is_listed_and_left_alone(cached):
    (cached[0].parent / "key.json").write_text('{"kind": "image", "novelty": 1}', encoding="utf-8")
    listed = bench("ls")
    assert (listed.exit_code, "?" in listed.stdout) == (0, True)


def test_prune_removes_what_killed_runs_left(cached):
    left = cached[0].with_name(f".{cached[0].name}.abc.safetensors")
    left.write_bytes(b"half")
    assert left.name not in bench("prune", "--older-than", "99").stdout
    os.utime(left, (1, 1))
    assert left.name in bench("prune", "--older-than", "99").stdout
    assert [left.exists(), cached[0].exists()] == [False, True]


def test_prune_removes_old_results(cached):
    keep(TypeAdapter(int), ["a number"], lambda: 7)
    assert "1 results computed of records" in bench("ls").stdout
    assert "results" not in bench("prune", "--older-than", "1").stdout
    assert "removed 1 results" in bench("prune", "--older-than", "0").stdout
    assert "0 results computed of records" in bench("ls").stdout


def test_prune_goes_by_age_and_by_size(cached):
    old = time.time() - 10 * 86_400
    os.utime(cached[0].parent / "key.json", (old, old))
    assert isinstance(bench("prune").exception, UsageError)
    assert "0 removed" in bench("prune", "--older-than", "11").stdout
    assert "0 removed" in bench("prune", "--max-size", "1").stdout
    assert "1 removed" in bench("prune", "--older-than", "9").stdout
    assert [path.exists() for path in cached] == [False, True]
    assert "1 removed" in bench("prune", "--max-size", "0").stdout


def test_an_export_is_taken_in_elsewhere(cached, tmp_path, monkeypatch):
    keys = [path.parent.name for path in cached]
    archive, again = tmp_path / "a.tar", tmp_path / "b.tar"
    assert "4 rows" in bench("export", keys[0][:9], keys[1], "-o", archive).stdout
    bench("export", *keys[::-1], "-o", again)
    assert archive.read_bytes() == again.read_bytes()
    monkeypatch.setenv("CIRBENCH_CACHE", str(tmp_path / "elsewhere"))
    for _ in range(2):
        assert bench("import", archive).stdout.count("added") == 2
    assert "2 shards are whole, 0 are not" in bench("verify").stdout
    here, there = Store(tmp_path / "cache", SPACE), Store(tmp_path / "elsewhere", SPACE)
    assert here.find_missing(["a", "b"]) == there.find_missing(["a", "b"]) == []
    assert torch.equal(here.read_rows(["a", "b"]), there.read_rows(["a", "b"]))
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"embeddings"}


def altered(members):
    name = next(name for name in members if name.endswith("safetensors"))
    return {**members, name: members[name][:-2] + b"??"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (altered, "truncated or altered"),
        (lambda members: {"notes.txt": b"x"}, "got 'notes.txt'"),
        (lambda members: {"../out.txt": b"x", **members}, "got '../out.txt'"),
        (
            lambda members: {n.replace("/", "/0", 1): c for n, c in members.items()},
            "must be the hash of",
        ),
    ],
)
def test_an_archive_that_is_not_what_it_says_adds_nothing(
    cached, tmp_path, monkeypatch, change, said
):
    archive = tmp_path / "a.tar"
    bench("export", cached[0].parent.name, "-o", archive)
    with tarfile.open(archive) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    with tarfile.open(archive, "w") as tar:
        for name, content in change(members).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setenv("CIRBENCH_CACHE", str(tmp_path / "elsewhere"))
    error = bench("import", archive).exception
    assert isinstance(error, CorruptData)
    assert said in str(error)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_file_that_is_no_archive_is_refused(cached, tmp_path):
    assert isinstance(bench("import", tmp_path / "none.tar").exception, MissingData)
    (tmp_path / "text.tar").write_text("no tar", encoding="utf-8")
    assert isinstance(bench("import", tmp_path / "text.tar").exception, CorruptData)


def test_a_shard_says_what_it_holds(tmp_path):
    assert check_shard(one_shard(tmp_path), SPACE.key, {}).identities == ("a", "b")
