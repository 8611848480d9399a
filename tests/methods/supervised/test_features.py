"""ARTEMIS and CIRPLANT as in their papers on CIRR: pictures are frozen features, texts words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from vectors import to_npy

WIDTH = 12
MEMBERS = 6
SIZES = {
    "artemis": {"width": 16, "word-width": 8, "first-epochs": 1, "epochs": 2},
    "cirplant": {"width": 16, "layers": 1, "heads": 2, "hidden": 16, "init": "", "epochs": 3},
    "tirg": {"width": 16, "steps": 6},
    "maaf": {"width": 16, "heads": 2, "steps": 6, "sampler": "random"},
}


@pytest.fixture
def data(tmp_path):
    """CIRR with four image sets of six features a split, and a query for each of the first five."""
    base, rng = tmp_path / "data" / "cirr", np.random.default_rng(0)
    for name in ("captions", "image_splits"):
        (base / name).mkdir(parents=True)
    for split, folder in (("train", "train/1"), ("val", "dev")):
        (base / "img_raw" / folder).mkdir(parents=True)
        names = [f"{split}-{i}-0-img0" for i in range(4 * MEMBERS)]
        for name in names:
            path = base / "img_raw" / folder / f"{name}.npy"
            path.write_bytes(to_npy(rng.standard_normal(WIDTH, dtype=np.float32)))
        rows = []
        for i in range(4 * MEMBERS):
            own, at = names[i // MEMBERS * MEMBERS :][:MEMBERS], i % MEMBERS
            if at + 1 < MEMBERS:
                rows.append(
                    {
                        "pairid": i,
                        "reference": own[at],
                        "target_hard": own[at + 1],
                        "target_soft": {own[at + 1]: 1.0, own[at - 1]: 1.0, own[at - 2]: 0.5},
                        "caption": ["next one", "Another (one)", ""][at % 3],
                        "img_set": {"id": i // MEMBERS, "members": own},
                    }
                )
        paths = {name: f"./{folder}/{name}.png" for name in names}
        for path, content in (
            (base / "captions" / f"cap.rc2.{split}.json", rows),
            (base / "image_splits" / f"split.rc2.{split}.json", paths),
        ):
            path.write_text(json.dumps(content), encoding="utf-8")
    return tmp_path / "data"


@pytest.mark.parametrize("method", SIZES)
def test_features_are_trained_on_and_evaluated(bench, data, tmp_path, method):
    weights, results = tmp_path / "w.safetensors", tmp_path / "r"
    given = ("-t", "cirr", "--data-root", data, "-b", f"features:{WIDTH}", "-q")
    options = [text for key, value in SIZES[method].items() for text in (f"--{key}", value)]
    code, _, err = bench("train", method, *given, "-o", weights, "--batch-size", 8, *options)
    assert code == 0, err
    with safe_open(weights, framework="np") as file:
        header = json.loads(file.metadata()["cirbench"])
    assert header["shape"]["image_width"] == WIDTH
    assert {"another", "next", "one"} <= set(header["words"])
    own = {"artemis": ["SR@5", "SRs@1"], "cirplant": ["SR@5", "SRs@1"]}
    if method in own:
        assert header["selection"]["metrics"] == own[method]
        assert header["selection"]["protocol"].startswith("soft@")
    command = ("run", "-m", method, *given[:4], "--protocol", "soft", "--checkpoint", weights)
    code, _, err = bench(*command, "-q", "-o", results)  # the backbone is the header's
    assert code == 0, err
    [record] = [json.loads(path.read_text(encoding="utf-8")) for path in results.rglob("*.json")]
    assert record["cell"]["backbone"] == f"features:{WIDTH}"


def test_a_feature_that_is_missing_stops_a_training(bench, data, tmp_path):
    (data / "cirr/img_raw/train/1/train-3-0-img0.npy").unlink()
    given = ("-t", "cirr", "--data-root", data, "-b", f"features:{WIDTH}")
    code, _, err = bench("train", "artemis", *given, "-o", tmp_path / "w.safetensors")
    assert code == 3
    assert "train-3-0-img0" in err
    assert not (tmp_path / "w.safetensors").exists()
