"""Weights that people hand to a method: wrapped, cut, of another network, with code in them."""

from __future__ import annotations

import json
import os
import shutil
import struct
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.methods.pic2word.method import Pic2Word

SHIPPED = Path(str(files("cirbench.methods") / "weights"))
PIC2WORD = SHIPPED / "pic2word--emoji-clip.safetensors"
COMBINER = SHIPPED / "combiner--emoji-clip.safetensors"


def run(method, path):
    return (
        "run",
        "-m",
        method,
        "-t",
        "emoji",
        "--limit",
        "1",
        "-q",
        "--cache",
        "off",
        "--checkpoint",
        path,
        "-o",
        "r",
    )


def value(out):
    return json.loads(out)["metrics"]


WRAPPED = {
    "several GPUs": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled, then several GPUs": lambda name: f"module._orig_mod.{name}",
    "several GPUs, then compiled": lambda name: f"_orig_mod.module.{name}",
    "a part of it compiled": lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
}


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_what_a_wrapper_puts_before_the_names_is_taken_off(tmp_path, wrapper, released):
    own = load_file(PIC2WORD)
    weights = {WRAPPED[wrapper](name): tensor for name, tensor in own.items()}
    path = tmp_path / "own.pt"
    torch.save({"state_dict_img2text": weights} if released else weights, path)
    mapper = Pic2Word.build(
        backbone=load_backbone("emoji-clip"), checkpoint=read_checkpoint(path)
    ).mapper.state_dict()
    assert mapper.keys() == own.keys()
    assert all(torch.equal(mapper[name], own[name]) for name in own)


def test_a_compiled_networks_weights_run(bench, tmp_path):
    weights = {f"_orig_mod.{name}": tensor for name, tensor in load_file(PIC2WORD).items()}
    save_file(weights, tmp_path / "own.safetensors")
    code, out, err = bench(*run("pic2word", tmp_path / "own.safetensors"), "--json")
    assert code == 0, err
    assert value(out) == value(bench(*run("pic2word", PIC2WORD), "--json")[1])


def names_twice(weights):
    return {**weights, **{f"module.{name}": tensor + 1 for name, tensor in weights.items()}}


def one_less(weights):
    return {name: tensor for name, tensor in weights.items() if name != "fc_out.bias"}


def one_more(weights):
    return {**weights, "fc_out.scale": torch.ones(3)}


def another_shape(weights):
    return {**weights, "fc_out.bias": torch.ones(3)}


def not_finite(weights):
    weights["fc_out.bias"][0] = torch.inf
    return weights


def another_prefix(weights):
    return {f"mapper.{name}": tensor for name, tensor in weights.items()}


NOT_A_MAPPER = {
    "names twice": (names_twice, "occur twice"),
    "one less": (one_less, "missing: fc_out.bias"),
    "one more": (one_more, "unknown: fc_out.scale"),
    "another shape": (another_shape, "of another shape: fc_out.bias (3,), not (128,)"),
    "not finite": (not_finite, "not finite: fc_out.bias"),
    "another prefix": (another_prefix, "mapper.fc_out"),
    "nothing": (lambda _weights: {"epoch": torch.tensor(3)}, "its keys are epoch"),
    "no matrix": (lambda w: {**w, "layers.0.0.weight": torch.ones(3)}, "mapping network"),
}


@pytest.mark.parametrize("case", NOT_A_MAPPER)
def test_weights_that_do_not_fill_the_network_are_named(refused, tmp_path, case):
    spoil, says = NOT_A_MAPPER[case]
    path = tmp_path / "own.safetensors"
    save_file(spoil(load_file(PIC2WORD)), path)
    error = refused(4, *run("pic2word", path), says=(str(path), says))
    assert "load_state_dict" not in error


@pytest.mark.parametrize("method", ["combiner", "searle", "lincir"])
def test_another_methods_weights_are_refused(refused, method):
    refused(4, *run(method, PIC2WORD), says=("must hold weights of a", "fc_out.bias"))


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_in_our_words(refused, tmp_path, zipped):
    path, trap = tmp_path / "evil.pt", tmp_path / "trap"
    torch.save({"a": Trap(trap)}, path, _use_new_zipfile_serialization=zipped)
    error = refused(4, *run("pic2word", path), says="mkdir")
    assert not trap.exists()
    assert "weights_only" not in error
    assert "torch" not in error


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_compiled_archive_is_refused_in_our_words(refused, tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    error = refused(4, *run("pic2word", path), says="running it is refused")
    assert "weights_only" not in error


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "empty.pt"),
        (b"", "empty.safetensors"),
        (b"PK\x03\x04", "cut.pt"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "lfs.safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "lfs.pt"),
        (b"\xff" * 64, "ones.safetensors"),
        (struct.pack("<Q", 2) + b"{}", "none.safetensors"),
        (struct.pack("<Q", 2) + b"[]", "list.safetensors"),
        (struct.pack("<Q", 2**40) + b"{}", "long.safetensors"),
    ],
)
def test_a_file_that_is_no_weights_is_refused(refused, tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    refused(4, *run("pic2word", path), says=str(path))


HEADERS = {
    "a list": "[]",
    "a number": "5",
    "null": "null",
    "cut": '{"trained_on": ',
    "nested": "[" * 100_000,
    "a backbone by name": '{"backbone": "ViT-L-14"}',
    "a training as a number": '{"trained_on": 5}',
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_is_not_ours_is_refused(refused, tmp_path, case):
    path = tmp_path / "own.safetensors"
    save_file(load_file(PIC2WORD), path, {"cirbench": HEADERS[case]})
    refused(4, *run("pic2word", path), says=str(path))


def test_a_header_of_300_000_tensors_is_refused(refused, tmp_path):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"layers.{i}.0.weight": entry for i in range(300_000)}).encode()
    path = tmp_path / "long.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    refused(4, *run("pic2word", path), says="at most 10,000 tensors, got 300,000")


def test_a_torch_file_of_too_many_tensors_is_refused(refused, tmp_path):
    path = tmp_path / "long.pt"
    torch.save({str(i): torch.empty(0) for i in range(10_001)}, path)
    refused(4, *run("pic2word", path), says="at most 10,000 tensors")


@pytest.mark.parametrize(("name", "code"), [("nowhere.pt", 3), ("folder.safetensors", 3)])
def test_a_path_without_a_file_is_missing_before_a_backbone_is_fetched(
    refused, tmp_path, name, code
):
    (tmp_path / "folder.safetensors").mkdir()
    path = tmp_path / name
    refused(code, *run("pic2word", path), "-b", "ViT-L-14/openai", says=str(path))


def test_a_tuned_clip_may_be_wrapped_and_must_be_whole(bench, refused, tmp_path):
    own = load_file(SHIPPED.parents[1] / "datasets/emoji/clip/open_clip_model.safetensors")
    torch.save({"CLIP": {f"module.{n}": t for n, t in own.items()}}, tmp_path / "wrapped.pt")
    plain = (
        "run",
        "-m",
        "image-text",
        "-t",
        "emoji",
        "--limit",
        "1",
        "-q",
        "--cache",
        "off",
        "-o",
        "r",
        "-b",
    )
    code, _, err = bench(*plain, f"tuned:emoji-clip@{tmp_path / 'wrapped.pt'}")
    assert code == 0, err
    shutil.rmtree(Path("r-partial"))
    torch.save({"CLIP": {"visual.proj": 3}}, tmp_path / "number.pt")
    refused(
        4, *plain, f"tuned:emoji-clip@{tmp_path / 'number.pt'}", says="must hold weights of a CLIP"
    )
    torch.save({"CLIP": dict(list(own.items())[1:])}, tmp_path / "less.pt")
    refused(4, *plain, f"tuned:emoji-clip@{tmp_path / 'less.pt'}", says=next(iter(own)))


def test_our_own_files_are_read_as_they_were():
    assert read_checkpoint(COMBINER).provenance["trained_on"]
