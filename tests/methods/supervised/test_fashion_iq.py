"""TIRG, MAAF and ARTEMIS as in their papers on Fashion-IQ: a trunk is trained along."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from cirbench.datasets.fashion_iq import CATEGORIES

PICTURES, PAIRS = 8, 6
SIZES = {
    "tirg": {"width": 16, "steps": 4},
    "maaf": {"width": 16, "heads": 2, "steps": 4},
    "artemis": {"width": 16, "word-width": 8, "first-epochs": 1, "epochs": 1},
}
JOINED = {"tirg": "inadditiontothat", "maaf": "inadditiontothat", "artemis": "<and>"}


@pytest.fixture
def data(tmp_path, picture):
    """Fashion-IQ with six queries a category, the same for train and val."""
    base = tmp_path / "data" / "fashion-iq"
    for name in ("captions", "image_splits", "images"):
        (base / name).mkdir(parents=True)
    for category in CATEGORIES:
        names = [f"{category}{i}" for i in range(PICTURES)]
        for i, name in enumerate(names):
            (base / "images" / f"{name}.jpg").write_bytes(picture(i))
        rows = [
            {
                "candidate": names[i],
                "target": names[i + 1],
                "captions": ["is longer" if i else "", f"Tee-shirt of a {category}"],
            }
            for i in range(PAIRS)
        ]
        for split in ("train", "val"):
            for kind, content in (("captions/cap", rows), ("image_splits/split", names)):
                path = base / f"{kind}.{category}.{split}.json"
                path.write_text(json.dumps(content), encoding="utf-8")
    return tmp_path / "data"


@pytest.mark.parametrize("method", SIZES)
def test_each_is_trained_and_evaluated_by_its_own_protocol(bench, data, tmp_path, method):
    weights, results = tmp_path / "w.safetensors", tmp_path / "r"
    given = ("-t", "fashion-iq", "--data-root", data, "-q")
    options = [text for key, value in SIZES[method].items() for text in (f"--{key}", value)]
    command = ("train", method, *given, "-b", "tiny", "-o", weights, "--batch-size", 4)
    code, _, err = bench(*command, *options)
    assert code == 0, err
    with safe_open(weights, framework="np") as file:
        header = json.loads(file.metadata()["cirbench"])
    own = "artemis" if method == "artemis" else "maaf"
    assert header["selection"]["protocol"].startswith(f"{own}@")
    assert header["selection"]["metrics"] == ["R@10", "R@50"]
    assert JOINED[method] in header["words"]
    assert {"longer", *CATEGORIES} <= set(header["words"])
    for protocol in (own, "clip4cir", "pic2word"):
        command = ("run", "-m", method, *given, "--protocol", protocol, "--checkpoint", weights)
        code, _, err = bench(*command, "-o", results / protocol)
        assert code == 0, err
        [path] = (results / protocol).rglob("*.json")
        record = json.loads(path.read_text(encoding="utf-8"))
        orders = 2 if protocol == "artemis" else 1
        assert record["counts"]["queries"] == orders * PAIRS * len(CATEGORIES)
