from __future__ import annotations

import hashlib
import os
import re
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cirbench.benchmark.checkpoints import (
    read_checkpoint,
    sha256_of_file,
    sha256_of_tensors,
    write_checkpoint,
    write_whole,
)
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.training.halve import halve


def weights():
    return {
        "fc.weight": torch.arange(6.0).reshape(2, 3),
        "fc.half": torch.tensor([0.5, -1.0], dtype=torch.bfloat16),
        "steps": torch.tensor(7),
    }


def released():
    """As Pic2Word's training script saves it after warm-up: numpy numbers in the optimizer."""
    return {
        "epoch": 3,
        "name": "pic2word",
        "state_dict": {},
        "state_dict_img2text": weights(),
        "optimizer": {
            "state": {0: {"step": 5, "exp_avg": torch.zeros(2)}},
            "param_groups": [{"lr": np.float64(1e-4), "betas": (0.9, 0.98), "params": [0]}],
        },
    }


def same_tensors(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )


def test_round_trip_with_provenance(tmp_path):
    path = tmp_path / "new" / "phi.safetensors"
    provenance = {"method": "pic2word", "seed": 0, "wörter": ["a", "b"]}
    write_checkpoint(path, {**weights(), "view": torch.arange(6).reshape(2, 3).T}, provenance)
    found = read_checkpoint(path)
    expected = {**weights(), "view": torch.tensor([[0, 3], [1, 4], [2, 5]])}
    assert same_tensors(found.content, expected)
    assert found.provenance == provenance
    assert found.path == path
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_of_file(path)
    assert list(path.parent.iterdir()) == [path]


def test_the_same_checkpoint_is_the_same_file(tmp_path):
    one, other = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    write_checkpoint(one, weights(), {"a": 1, "b": 2})
    write_checkpoint(other, dict(reversed(weights().items())), {"b": 2, "a": 1})
    assert one.read_bytes() == other.read_bytes()


def test_other_peoples_safetensors_have_no_provenance(tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file(weights(), path, metadata={"format": "pt"})
    assert read_checkpoint(path).provenance == {}


def with_old_numpy_names(path):
    """Rewrites a file as NumPy 1 pickled its numbers."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"numpy._core.multi", b"numpy.core.multi"))


@pytest.mark.parametrize("numpy_names", ["new", "old"])
@pytest.mark.parametrize("zipped", [True, False])
def test_released_torch_files_are_read(tmp_path, zipped, numpy_names):
    path = tmp_path / "epoch_3.pt"
    torch.save(released(), path, _use_new_zipfile_serialization=zipped)
    if numpy_names == "old" and zipped:
        with_old_numpy_names(path)
    elif numpy_names == "old":
        renamed = path.read_bytes().replace(b"numpy._core.multi", b"numpy.core.multi")
        path.write_bytes(renamed)
    assert (b"numpy.core.multi" in path.read_bytes()) == (numpy_names == "old")
    found = read_checkpoint(path)
    assert same_tensors(found.content["state_dict_img2text"], weights())
    assert found.content["optimizer"]["param_groups"][0]["lr"] == 1e-4
    assert found.provenance == {}
    assert found.sha256 == sha256_of_file(path)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_trap_works(tmp_path):
    torch.save(Trap(tmp_path / "trap"), tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["evil.pt", "evil.bin", "evil"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("hidden", [True, False])
def test_executable_pickle_is_refused_and_not_run(tmp_path, name, zipped, hidden):
    trap = Trap(tmp_path / "trap")
    content = {**released(), "args": [trap]} if hidden else trap
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CorruptData, match="running it is refused") as error:
        read_checkpoint(tmp_path / name)
    assert not (tmp_path / "trap").exists()
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 4


def test_reading_leaves_torchs_allow_list_alone(tmp_path):
    torch.save(released(), tmp_path / "epoch_3.pt")
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        read_checkpoint(tmp_path / "epoch_3.pt")
        assert torch.serialization.get_safe_globals() == []
    finally:
        torch.serialization.add_safe_globals(before)


def saved(tmp_path, kind):
    path = tmp_path / ("whole.safetensors" if kind == "safetensors" else "whole.pt")
    if kind == "safetensors":
        write_checkpoint(path, weights(), {"seed": 0})
    else:
        torch.save(released(), path, _use_new_zipfile_serialization=kind == "zip")
    return path


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, kind):
    whole = saved(tmp_path, kind)
    content = whole.read_bytes()
    cut = whole.with_stem("cut")
    for length in range(0, len(content), max(1, len(content) // 120)):
        cut.write_bytes(content[:length])
        with pytest.raises(CorruptData, match=re.escape(str(cut))):
            read_checkpoint(cut)


@pytest.mark.parametrize("name", ["page.pt", "page.safetensors"])
def test_a_file_that_is_no_weights_at_all_is_refused(tmp_path, name):
    (tmp_path / name).write_text(
        "<!DOCTYPE html><title>404 Not Found</title>\n" * 20, encoding="utf-8"
    )
    with pytest.raises(CorruptData, match="page"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], 5])
def test_weights_without_names_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "bare.pt")
    with pytest.raises(CorruptData, match=f"named weights, got a {type(content).__name__}"):
        read_checkpoint(tmp_path / "bare.pt")


@pytest.mark.parametrize("name", ["phi.pt", "phi.safetensors", "folder"])
def test_a_missing_file_is_named(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(MissingData, match="check the path") as error:
        read_checkpoint(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert error.value.exit_code == 3


CHANGED = {
    "name": {"a": torch.zeros(2, 3), "c": torch.ones(4)},
    "dtype": {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(4)},
    "shape": {"a": torch.zeros(3, 2), "b": torch.ones(4)},
    "value": {"a": torch.zeros(2, 3), "b": torch.tensor([1.0, 1.0, 1.0, 1.0000001])},
    "swapped": {"b": torch.zeros(2, 3), "a": torch.ones(4)},
    "one less": {"a": torch.zeros(2, 3)},
}


@pytest.mark.parametrize("change", CHANGED)
def test_the_hash_of_tensors_changes_with_any_of_it(change):
    plain = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    assert sha256_of_tensors(CHANGED[change]) != sha256_of_tensors(plain)


def test_the_hash_of_tensors_is_of_their_values_only():
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.5, dtype=torch.bfloat16)}
    stored_otherwise = {
        "a": torch.nn.Parameter(tensors["a"].clone()),
        "b": tensors["b"].T.contiguous().T,
    }
    assert not stored_otherwise["b"].is_contiguous()
    assert sha256_of_tensors(stored_otherwise) == sha256_of_tensors(tensors)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "phi.safetensors"
    path.write_text("former", encoding="utf-8")

    def fail():
        with write_whole(path) as temporary:
            temporary.write_text("half", encoding="utf-8")
            assert path.read_text(encoding="utf-8") == "former"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text(encoding="utf-8") == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    with write_whole(tmp_path / "ours") as temporary:
        temporary.write_text("", encoding="utf-8")
    (tmp_path / "plain").write_text("", encoding="utf-8")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_halved_weights_keep_header_and_values_and_refuse_what_is_too_large(tmp_path):
    tensors = {"weight": torch.tensor([0.5, 1 / 3]), "count": torch.tensor([3])}
    write_checkpoint(tmp_path / "whole.safetensors", tensors, {"kind": "mapper"})
    halve(tmp_path / "whole.safetensors", tmp_path / "half.safetensors")
    found = read_checkpoint(tmp_path / "half.safetensors")
    assert found.provenance == {"kind": "mapper"}
    assert found.content["weight"].dtype == torch.float16
    assert found.content["weight"].tolist() == [0.5, 0.333251953125]
    assert found.content["count"].tolist() == [3]
    write_checkpoint(tmp_path / "large.safetensors", {"weight": torch.tensor([1e5])}, {})
    with pytest.raises(ValueError, match="65504"):
        halve(tmp_path / "large.safetensors", tmp_path / "never.safetensors")
    assert not (tmp_path / "never.safetensors").exists()
