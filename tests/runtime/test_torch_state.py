"""Torch's global state: set for a block, and put back."""

from __future__ import annotations

import pytest
import torch

from cirbench.benchmark.runtime.torch_state import full_float32, seeded


@pytest.mark.parametrize("allowed", [False, True])
def test_products_and_convolutions_are_in_float32_and_the_settings_come_back(allowed, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    with full_float32():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == allowed


def test_apples_generator_is_seeded_in_a_block_and_put_back(monkeypatch):
    """On a machine without one: what is asked of torch.mps, in its order."""
    asked = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "before")
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: asked.append(seed))
    monkeypatch.setattr(torch.mps, "set_rng_state", asked.append)
    before = torch.random.get_rng_state()
    with seeded(3, "mps"):
        asked.append("inside")
        torch.rand(1)
    assert asked == [3, "inside", "before"]
    assert torch.equal(before, torch.random.get_rng_state())
