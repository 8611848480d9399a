"""All that can change a vector is in the key that it is stored under, or changes no vector."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from models import write_hf, write_open_clip
from PIL import Image
from safetensors.torch import load_file, save_file

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.api.registry import find_method
from cirbench.benchmark.api.values import Mode
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import write_checkpoint
from cirbench.benchmark.embedding.encoding_code import (
    MODULES,
    find_modules,
    hash_code,
    strip_source,
)
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, embed_with
from cirbench.benchmark.embedding.space import make_image_space, make_text_space
from cirbench.benchmark.images.preprocess import make_transform
from cirbench.benchmark.images.reading import make_file_ref
from cirbench.benchmark.runtime import provenance
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.torch_state import seeded

OURS = provenance.find_source_root() / "benchmark"
TEXTS = ["A red, dog!", "it's  two cars", "Ünïcode &amp; more"]
PICTURE = Image.linear_gradient("L").resize((80, 60)).convert("RGB")


@dataclass
class Encoded:
    """Key and vectors of one kind."""

    key: str
    values: torch.Tensor

    def meets(self, other):
        """Whether the store would give these for the others."""
        return self.key == other.key

    def equals(self, other):
        return torch.equal(self.values, other.values)


def encode(backbone):
    """Pictures, texts and prompts by a backbone, each with the key it would be stored under."""
    word = torch.ones(1, backbone.token_width)
    with torch.inference_mode():
        pixels = make_transform("clip", backbone.image_spec)(PICTURE)
        return {
            "image": Encoded(
                make_image_space(backbone, "clip").key, backbone.encode_images(pixels.unsqueeze(0))
            ),
            "text": Encoded(
                make_text_space(backbone, truncate=True).key,
                backbone.encode_texts(TEXTS, truncate=True),
            ),
            "prompt": Encoded(
                make_text_space(backbone, truncate=True, checkpoint="c").key,
                backbone.encode_prompts(["a * photo"], word, truncate=True),
            ),
        }


def change_json(name, change):
    def do(folder):
        path = folder / name
        found = json.loads(path.read_text(encoding="utf-8"))
        change(found)
        path.write_text(json.dumps(found), encoding="utf-8")

    return do


def change_weight(name, part):
    def do(folder):
        weights = load_file(folder / name)
        key = next(key for key in sorted(weights) if part in key and weights[key].dim() > 1)
        weights[key] *= 1.5
        save_file(weights, folder / name, {"format": "pt"})

    return do


def open_clip_setting(part, **settings):
    return change_json(
        "open_clip_config.json", lambda found: found["model_cfg"][part].update(settings)
    )


def drop_merge(folder):
    path = folder / "merges.txt"
    merges = path.read_text(encoding="utf-8")
    path.write_text(merges.replace("\ndo g</w>\n", "\n"), encoding="utf-8")


def swap_words(found):
    found["dog</w>"], found["red</w>"] = found["red</w>"], found["dog</w>"]


def write_preprocessor(folder):
    own = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(own), encoding="utf-8")


def own_mean(folder):
    change_json(
        "open_clip_config.json", lambda found: found["preprocess_cfg"].update(mean=[0.5, 0.5, 0.5])
    )(folder)


OPEN_CLIP = {
    "image weights": (change_weight("open_clip_model.safetensors", "visual.proj"), "image"),
    "text weights": (change_weight("open_clip_model.safetensors", "token_embedding"), "text"),
    "number of heads": (open_clip_setting("vision_cfg", head_width=4), "image"),
    "activation": (
        change_json(
            "open_clip_config.json", lambda found: found["model_cfg"].update(quick_gelu=True)
        ),
        "image",
    ),
    "attention mask": (open_clip_setting("text_cfg", no_causal_mask=True), "text"),
    "clean-up": (open_clip_setting("text_cfg", tokenizer_kwargs={"clean": "whitespace"}), "text"),
    "normalisation": (own_mean, "image"),
}
HF = {
    "weights": (change_weight("model.safetensors", "text_projection"), "text"),
    "merges": (drop_merge, "text"),
    "vocabulary": (change_json("vocab.json", swap_words), "text"),
    "own preprocessing": (write_preprocessor, "image"),
    "activation": (
        change_json("config.json", lambda found: found["text_config"].update(hidden_act="gelu")),
        "text",
    ),
    "epsilon": (
        change_json("config.json", lambda found: found["text_config"].update(layer_norm_eps=0.1)),
        "text",
    ),
}
CASES = [
    *((write_open_clip, "local-dir:", case, *OPEN_CLIP[case]) for case in OPEN_CLIP),
    *((write_hf, "hf:", case, *HF[case]) for case in HF),
]


@pytest.mark.parametrize(
    ("write", "prefix", "case", "change", "moved"), CASES, ids=[f"{c[1]}{c[2]}" for c in CASES]
)
def test_a_change_of_a_models_files_is_another_key(tmp_path, write, prefix, case, change, moved):
    before = encode(load_backbone(f"{prefix}{write(tmp_path / 'model')}"))
    change(tmp_path / "model")
    after = encode(load_backbone(f"{prefix}{tmp_path / 'model'}"))
    assert not before[moved].equals(after[moved]), f"{case} was to move a vector"
    for kind in before:
        assert before[kind].equals(after[kind]) or not before[kind].meets(after[kind])


@pytest.mark.parametrize(("write", "prefix"), [(write_hf, "hf:"), (write_open_clip, "local-dir:")])
def test_the_same_files_are_one_key_wherever_they_lie(tmp_path, monkeypatch, write, prefix):
    monkeypatch.chdir(tmp_path)
    write(Path("own/model"))
    shutil.copytree("own/model", "copy")
    names = [
        f"{prefix}./own/model",
        f"{prefix}{tmp_path}/own/model",
        f"{prefix}./copy",
        f"mine={prefix}./copy",
    ]
    found = [encode(load_backbone(name)) for name in names]
    for kind in found[0]:
        assert len({one[kind].key for one in found}) == 1


@pytest.mark.parametrize("precision", ["bf16", "amp_bf16"])
def test_another_precision_is_another_key(precision):
    before, after = (
        encode(load_backbone("fake")),
        encode(load_backbone("fake", precision=precision)),
    )
    assert not any(before[kind].meets(after[kind]) for kind in before)


def test_another_kind_of_device_is_another_key_and_another_device_is_not():
    backbone, keys = load_backbone("fake"), []
    for device in ("cpu", "cuda", "cuda:1"):
        backbone.device = device
        keys.append(make_image_space(backbone, "clip").key)
    assert keys[0] != keys[1] == keys[2]


@pytest.mark.parametrize(
    "package",
    [
        "torch",
        "torchvision",
        "pillow",
        "open_clip_torch",
        "timm",
        "transformers",
        "tokenizers",
        "ftfy",
        "regex",
    ],
)
def test_another_version_of_a_library_is_another_key(monkeypatch, package):
    backbone, version = load_backbone("fake"), provenance.version
    before = make_image_space(backbone, "clip").key
    monkeypatch.setattr(
        provenance, "version", lambda name: "0.0.1" if name == package else version(name)
    )
    assert make_image_space(backbone, "clip").key != before


@pytest.mark.parametrize("library", ["jpg", "libjpeg_turbo", "webp"])
def test_another_decoder_behind_pillow_is_another_key(monkeypatch, library):
    backbone = load_backbone("fake")
    before = make_image_space(backbone, "clip").key
    monkeypatch.setattr(
        "cirbench.benchmark.embedding.space.features.version",
        lambda name: "0" if name == library else "1",
    )
    found = make_image_space(backbone, "clip").packages
    assert found[library] == "0"
    assert make_image_space(backbone, "clip").key != before


def test_what_is_done_to_pictures_and_texts_is_in_the_key():
    backbone = load_backbone("fake")
    keys = [make_image_space(backbone, name).key for name in ("clip", "clip-hf", "targetpad")]
    keys += [
        make_text_space(backbone, truncate=truncate, checkpoint=checkpoint).key
        for truncate in (True, False)
        for checkpoint in (None, "weights", "others")
    ]
    assert len(set(keys)) == 9


# Our own code


def modules():
    return [path for pattern in MODULES for path in sorted(OURS.glob(pattern))]


@pytest.fixture
def code(tmp_path):
    """A copy of the modules that make a vector."""
    for path in modules():
        target = tmp_path / path.relative_to(OURS)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


@pytest.mark.parametrize("module", modules(), ids=lambda path: path.name)
def test_a_change_of_our_code_is_another_key_and_one_of_remarks_is_not(code, module):
    path, before = code / module.relative_to(OURS), hash_code(code)
    source = path.read_text(encoding="utf-8")
    remarked = re.sub(r"(?m)^( +)return", r"\1# And one.\n\n\1return", source)
    path.write_text(
        f'# A remark.\n\n{remarked}\n\n"""Of nothing."""  # Either.\n', encoding="utf-8"
    )
    assert hash_code(code) == before
    path.write_text(f"{source}\nx = 1\n", encoding="utf-8")
    assert hash_code(code) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('x = "a # b"', 'x = "a # c"'),
        ('x = """a\n\nb"""', 'x = """a\nb"""'),
        ("if a:\n    b\nc", "if a:\n    b\n    c"),
        ("def f(x):\n    '''Doc.'''\n    return x", "def f(x):\n    '''Doc.'''\n    return -x"),
    ],
)
def test_what_looks_like_a_remark_and_is_none_counts(one, other):
    assert strip_source(one) != strip_source(other)


NO_PART = (
    "api/*",
    "checkpoints",
    "data/annotations",
    "embedding/contents",
    "embedding/encoding_code",
    "embedding/folders",
    "embedding/shard",
    "embedding/share",
    "embedding/space",
    "embedding/store",
    "images/leftovers",
    "runtime/*",
)
"""Read by the modules that make a vector, and can't change one: names, errors, hashes, storage, and
which pictures are whose, cut between batches.
Weights are hashed when `checkpoints` has read them."""


def test_every_module_on_the_way_to_a_vector_is_in_the_key_or_known_to_change_none():
    own = {str(path.relative_to(OURS).with_suffix("")) for path in modules()}
    asked, seen = list(own), set()
    while asked:
        name = asked.pop()
        if name in seen or any(fnmatch(name, part) for part in NO_PART):
            continue
        seen.add(name)
        folder = OURS / name
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                _, found, part = node.module.partition("cirbench.benchmark.")
                asked += [part.replace(".", "/")] if found else []
    assert {name.removesuffix("/__init__") for name in seen} == {
        name.removesuffix("/__init__") for name in own
    }


# Others' code


PLUG_IN = """
from cirbench.benchmark.backbones.fake import load as load_fake

def load(name, *, device, precision):
    backbone = load_fake(name, device=device, precision=precision)
    tower = backbone.image_tower
    backbone.image_tower = lambda pixels: 1 * tower(pixels)
    return backbone
"""


def test_a_change_of_a_plug_ins_code_is_another_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would hide a change within a second
    found = []
    for source in (PLUG_IN, PLUG_IN.replace("1 *", "2 *"), PLUG_IN):
        (tmp_path / "cirbench_key_plug_in.py").write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        sys.modules.pop("cirbench_key_plug_in", None)
        plug_in = importlib.import_module("cirbench_key_plug_in")
        found.append(encode(plug_in.load("fake", device="cpu", precision="fp32")))
    first, second, third = (one["image"] for one in found)
    assert not first.equals(second)
    assert not first.meets(second)
    assert first.meets(third)


@pytest.mark.parametrize("name", ["fake", "emoji-clip"])
def test_our_own_backbones_are_no_plug_ins(name):
    assert make_image_space(load_backbone(name), "clip").plug_in is None


# Trained towers, whose code is a method's


def write_trained(path, method, *, trunk="tiny", words=("red", "dog"), change=None, **shape):
    """A file as an end-to-end training writes it."""
    found = find_method(method)
    with seeded(0):
        network, vocabulary = found.start(
            {"width": 16, "heads": 2, **shape},
            {"trunk": trunk, "image_width": 0, "text_width": 0, "words": True},
            [" ".join(words)],
        )
    weights = network.state_dict()
    if change:
        weights[change].view(-1)[0] += 0.5
    header = {
        "kind": method,
        "shape": asdict(network.shape),
        "words": list(vocabulary.words),
        "image": ImageSpec(size=48).as_dict(),
    }
    write_checkpoint(path, weights, header)
    return load_backbone(f"trained:{path}")


def encode_trained(backbone):
    with torch.inference_mode():
        pixels = make_transform("imagenet", backbone.image_spec)(PICTURE)
        return {
            "image": Encoded(
                make_image_space(backbone, "imagenet").key, backbone.encode_images(pixels[None])
            ),
            "text": Encoded(
                make_text_space(backbone, truncate=False).key, backbone.encode_texts(TEXTS)
            ),
        }


TRAINED = [
    ("artemis", {"change": "trunk.conv1.weight"}, "image"),
    ("artemis", {"change": "trunk.bn1.running_mean"}, "image"),
    ("artemis", {"change": "text.embedding.weight"}, None),  # of <pad>, which no text has
    ("artemis", {"words": ("dog", "red")}, "text"),
    ("artemis", {"text_tower": "lstm"}, "text"),
    ("tirg", {"change": "image_projection.bias"}, "image"),
    ("tirg", {"words": ("cars", "dog")}, "text"),
    ("tirg", {"trunk": "resnet18"}, "image"),
    ("maaf", {"change": "blocks.0.contract.bias"}, "image"),
    ("maaf", {"heads": 4}, "image"),
    ("maaf", {"blocks": 1}, "image"),
]


@pytest.mark.parametrize(("method", "changes", "moved"), TRAINED)
def test_a_change_of_trained_towers_is_another_key(tmp_path, method, changes, moved):
    before = encode_trained(write_trained(tmp_path / "before.safetensors", method))
    after = encode_trained(write_trained(tmp_path / "after.safetensors", method, **changes))
    if moved:
        assert not before[moved].equals(after[moved]), f"{changes} was to move a vector"
    assert not before["text"].meets(after["text"])
    for kind in before:
        assert before[kind].equals(after[kind]) or not before[kind].meets(after[kind])


def test_the_same_trained_towers_are_one_key_wherever_they_lie(tmp_path):
    write_trained(tmp_path / "one.safetensors", "maaf")
    shutil.copy(tmp_path / "one.safetensors", tmp_path / "other.safetensors")
    one, other = (
        encode_trained(load_backbone(f"trained:{tmp_path / name}.safetensors"))
        for name in ("one", "other")
    )
    assert all(one[kind].meets(other[kind]) for kind in one)


WITH_TOWERS = ("artemis", "maaf", "tirg")


def modules_of(backbone):
    """The modules of methods that are in its key."""
    return {name for name in find_modules(backbone) if name.startswith("cirbench.methods.")}


@pytest.mark.parametrize("method", WITH_TOWERS)
def test_a_change_of_a_methods_code_is_another_key_and_one_of_remarks_is_not(
    tmp_path, monkeypatch, method
):
    backbone = write_trained(tmp_path / "a.safetensors", method)
    found = modules_of(backbone)
    assert {"cirbench.methods.supervised.trained", f"cirbench.methods.{method}.method"} < found

    def find_key(name, more):
        source = Path(sys.modules[name].__file__).read_text(encoding="utf-8")
        (tmp_path / "changed.py").write_text(f"{source}{more}", encoding="utf-8")
        with monkeypatch.context() as patched:
            patched.setattr(sys.modules[name], "__file__", str(tmp_path / "changed.py"))
            return make_image_space(backbone, "clip").key

    before = make_image_space(backbone, "clip").key
    for name in found:
        assert find_key(name, "\n\n# A remark.\n") == before
        assert find_key(name, "\nx = 1\n") != before


NO_PART_OF_TOWERS = (
    "supervised.batch",
    "supervised.losses",
    "supervised.method",
    "supervised.official",
    "artemis.word_vectors",
)
"""What the methods read for training, for files, or for queries alone."""


@pytest.mark.parametrize("method", WITH_TOWERS)
def test_every_module_of_a_methods_towers_is_in_the_key_or_known_to_change_none(tmp_path, method):
    own = modules_of(write_trained(tmp_path / "a.safetensors", method))
    left_out = {f"cirbench.methods.{name}" for name in NO_PART_OF_TOWERS}
    asked, seen = list(own), set()
    while asked:
        name = asked.pop()
        if name in seen or name in left_out or not name.startswith("cirbench.methods."):
            continue
        seen.add(name)
        source = Path(sys.modules[name].__file__).read_text(encoding="utf-8")
        asked += [
            node.module
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.ImportFrom) and node.module
        ]
    types = {"cirbench.methods.supervised.towers"}  # whose layers are found where they are used
    assert seen - types == own - types


# Pictures


def test_another_picture_of_the_same_size_and_time_is_another_row(tmp_path, monkeypatch):
    monkeypatch.setattr("cirbench.benchmark.embedding.contents.SETTLED_NANOSECONDS", -(10**9))
    backbone, path, found = load_backbone("fake"), tmp_path / "a.bmp", []
    for colour in ("red", "blue", "red"):
        Image.new("RGB", (20, 20), colour).save(path)
        os.utime(path, (1e9, 1e9))
        reporter = Reporter(quiet=True)
        with reporter.stage("images", 1) as stage:
            embedder = Embedder(
                backbone=backbone,
                preprocess="clip",
                size=BatchSize(value=1),
                workers=1,
                stage=stage,
            )
            found += embed_with([embedder], [make_file_ref(path, "a")], Mode.USE, reporter)
    assert [one.passes for one in found] == [1, 1, 0]
    assert not torch.equal(found[0].values, found[1].values)
    assert torch.equal(found[0].values, found[2].values)
