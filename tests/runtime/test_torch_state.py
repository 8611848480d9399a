"""Torch's global state: set for a block, and put back."""

from __future__ import annotations

import pytest
import torch

from cirbench.benchmark.runtime.torch_state import full_float32


@pytest.mark.parametrize("allowed", [False, True])
def test_products_and_convolutions_are_in_float32_and_the_settings_come_back(allowed, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    with full_float32():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == allowed
