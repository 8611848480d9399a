"""--seeds: what is run for each, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cirbench.benchmark.cli.seeds import parse_seeds, repeat_over_seeds
from cirbench.benchmark.runtime.errors import UsageError


def test_a_training_is_run_once_for_each_seed_into_a_place_of_its_own():
    called = []

    def train(output: Path, seed: int = 0, epochs: int = 1) -> None:
        called.append((output, seed, epochs))

    repeated = repeat_over_seeds(train)
    repeated(output=Path("at/m-{seed}.safetensors"), seed=0, seeds="7, 0,7", epochs=3)
    assert called == [(Path("at/m-7.safetensors"), 7, 3), (Path("at/m-0.safetensors"), 0, 3)]
    repeated(output=Path("m"), seed=5)
    assert called[2:] == [(Path("m"), 5, 1)]


@pytest.mark.parametrize("text", ["", "0,", "-1", "0;1", "1.5", str(2**32), "²"])
def test_what_is_no_seed_is_refused(text):
    with pytest.raises(UsageError, match="--seeds must be whole numbers"):
        parse_seeds(text)


@pytest.mark.parametrize(
    "training",
    [
        ("combiner", "-t", "emoji", "-b", "fake"),
        ("clip-sum", "-t", "emoji", "-b", "fake"),
        ("pic2word", "--images", "emoji", "-b", "fake"),
        ("tiny-clip", "-t", "emoji"),
        ("lincir", "--texts", "emoji", "-b", "fake"),
    ],
)
def test_seeds_that_would_write_one_file_are_refused(bench, tmp_path, training):
    code, _, err = bench("train", *training, "--seeds", "0,1", "-o", tmp_path / "m.safetensors")
    assert code == 2
    assert "--output must have {seed}" in err
    assert not list(tmp_path.glob("m*"))


def test_several_seeds_are_planned_in_turn(bench):
    code, out, _ = bench("run", "-m", "pic2word", "-t", "emoji", "--seeds", "1,2", "--dry-run")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("seed")] == ["seed: 1", "seed: 2"]
