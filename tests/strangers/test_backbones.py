"""Models that people have: cut, renamed, of another kind, without a tokenizer."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from models import write_hf, write_open_clip
from safetensors.torch import load_file, save_file

from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.embedding.space import make_image_space, make_text_space
from cirbench.benchmark.evaluation.plan import Request, plan_methods

RUN = ("run", "-m", "image-text", "-t", "emoji", "--limit", "1", "-q", "--cache", "off", "-o", "r")


def edit_json(path, **changes):
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def edit_config(folder, tower, **changes):
    own = json.loads((folder / "config.json").read_text(encoding="utf-8"))[tower]
    edit_json(folder / "config.json", **{tower: {**own, **changes}})


def edit_weights(path, change):
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(weights), path, {"format": "pt"})


def spoil_weights(change):
    return lambda folder: edit_weights(folder / "model.safetensors", change)


def cut(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def pickle_instead(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(print))


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def without(*parts):
    return spoil_weights(
        lambda w: {k: v for k, v in w.items() if not any(part in k for part in parts)}
    )


def zero(weights):
    return {**weights, "visual_projection.weight": weights["visual_projection.weight"] * 0}


def larger_table(weights):
    return {**weights, "text_model.embeddings.token_embedding.weight": torch.randn(60_000, 16)}


def not_a_number(weights):
    weights["text_projection.weight"][0, 0] = torch.nan
    return weights


HF = {
    "every key begins with module.": (
        spoil_weights(lambda w: {f"module.{k}": v for k, v in w.items()}),
        4,
        "missing from its files",
    ),
    "no projections": (without("projection"), 4, "text_projection.weight"),
    "no text tower": (without("text_model"), 4, "text_model.embeddings"),
    "no picture tower": (without("vision_model"), 4, "vision_model.embeddings"),
    "one weight of another shape": (
        spoil_weights(lambda w: {**w, "text_projection.weight": torch.ones(3, 3)}),
        4,
        "",
    ),
    "a file cut in half": (cut, 4, "whole safetensors file"),
    "whole numbers": (spoil_weights(lambda w: {k: v.char() for k, v in w.items()}), 4, "quantised"),
    "zeros": (spoil_weights(zero), 4, "must not be all zero"),
    "not a number": (spoil_weights(not_a_number), 4, "must be finite"),
    "a pickle that calls": (pickle_instead, 4, "never run"),
    "no tokenizer": (remove("vocab.json", "merges.txt"), 3, "a tokenizer"),
    "no weights": (remove("model.safetensors"), 3, "weights"),
    "no configuration": (remove("config.json"), 3, "a configuration"),
    "a broken configuration": (
        lambda f: (f / "config.json").write_text("{", encoding="utf-8"),
        4,
        "JSON",
    ),
    "another kind of model": (
        lambda f: edit_json(f / "config.json", model_type="siglip2"),
        4,
        "'siglip2'",
    ),
    "a CLIP that says it is a SigLIP": (
        lambda f: edit_json(f / "config.json", model_type="siglip"),
        4,
        "missing from its files",
    ),
    "a vocabulary of another model": (
        lambda f: (f / "vocab.json").write_text(
            json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}), encoding="utf-8"
        ),
        4,
        "vocabulary",
    ),
    "pictures that are not square": (
        lambda f: edit_config(f, "vision_config", image_size=[64, 32]),
        2,
        "64 × 32",
    ),
    "an end of text that no text has": (
        lambda f: edit_config(f, "text_config", eos_token_id=7),
        4,
        "must end in the token 7",
    ),
    "a table of another vocabulary": (
        lambda f: (
            edit_config(f, "text_config", vocab_size=60_000),
            edit_weights(f / "model.safetensors", larger_table),
        ),
        4,
        "table has 60,000",
    ),
    "an empty vocabulary": (lambda f: (f / "vocab.json").write_text("{}", encoding="utf-8"), 4, ""),
}


@pytest.mark.parametrize("case", HF)
def test_a_transformers_folder_is_whole_or_refused(refused, tmp_path, case):
    spoil, code, says = HF[case]
    folder = write_hf(tmp_path / "hf")
    spoil(folder)
    error = refused(code, *RUN, "-b", f"hf:{folder}", says=says)
    assert "HF_HOME" not in error
    assert "weights_only" not in error


def test_a_transformers_folder_runs_under_its_short_name(bench, tmp_path, monkeypatch):
    folder = write_hf(tmp_path / "work" / "own" / "hf")
    names, spaces = [], []
    for name in ("hf:own/hf", "hf:./own/hf", f"hf:{folder}"):
        backbone = load_backbone(name)
        names.append(backbone.name)
        spaces.append(
            (make_image_space(backbone, "clip"), make_text_space(backbone, truncate=False))
        )
    assert names == ["hf:hf"] * 3
    assert all(space == spaces[0] for space in spaces)
    assert load_backbone(f"small=hf:{folder}").name == "small"
    found = plan_methods(Request(methods=("all",), task="emoji"), "mine=emoji-clip")
    assert "pic2word" in [method.name for method in found]
    code, out, err = bench(*RUN, "-b", f"small=hf:{folder}", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["cell"]["backbone"] == "small"


def test_a_models_own_mean_and_deviation_are_used(tmp_path):
    folder = write_hf(tmp_path / "hf")
    own = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"height": 32, "width": 32},
        "resample": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(own), encoding="utf-8")
    backbone = load_backbone(f"hf:{folder}")
    assert (backbone.image_spec.mean, backbone.image_spec.std) == ((0.5,) * 3, (0.5,) * 3)
    assert "squash, bilinear" in backbone.remarks[0]


def test_another_preprocessing_of_ones_own_is_said_and_recorded(bench, tmp_path):
    folder = write_open_clip(
        tmp_path / "oc", preprocess_cfg={"resize_mode": "squash", "interpolation": "bilinear"}
    )
    code, out, _ = bench(*RUN, "-b", f"local-dir:{folder}", "--json")
    assert code == 0
    assert "squash, bilinear" in json.loads(out)["annotations"]["remarks"][0]


@pytest.mark.parametrize("own", [{"do_rescale": False}, {"rescale_factor": 1 / 127.5}])
def test_pixels_that_are_scaled_otherwise_are_refused(refused, tmp_path, own):
    folder = write_hf(tmp_path / "hf")
    (folder / "preprocessor_config.json").write_text(json.dumps(own), encoding="utf-8")
    refused(2, *RUN, "-b", f"hf:{folder}", says="0 to 1")


BROKEN_PICTURES = (
    "{",
    "[]",
    '{"image_mean": "x"}',
    '{"image_mean": [0.5]}',
    '{"image_std": [0, 0, 0]}',
    '{"rescale_factor": "x"}',
)


@pytest.mark.parametrize("own", BROKEN_PICTURES)
def test_a_broken_preprocessing_is_refused(refused, tmp_path, own):
    folder = write_hf(tmp_path / "hf")
    (folder / "preprocessor_config.json").write_text(own, encoding="utf-8")
    refused(4, *RUN, "-b", f"hf:{folder}", says=str(folder))


def test_a_weight_that_no_tower_has_may_pass_without_a_word(bench, tmp_path):
    folder = write_hf(tmp_path / "hf")
    edit_weights(folder / "model.safetensors", lambda w: {**w, "extra": torch.ones(2, 2)})
    code, _, err = bench(*RUN, "-b", f"hf:{folder}", "--json")
    assert (code, err) == (0, "")


def test_a_file_in_the_place_of_a_folder_is_refused(refused, tmp_path):
    folder = write_hf(tmp_path / "hf")
    refused(3, *RUN, "-b", f"hf:{folder / 'config.json'}", says="must be a folder that exists")


def open_clip_pickle(folder):
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(print))


OPEN_CLIP = {
    "no weights": (remove("open_clip_model.safetensors"), 3, "weights"),
    "no configuration": (remove("open_clip_config.json"), 3, "a configuration"),
    "a configuration without a model": (
        lambda f: (f / "open_clip_config.json").write_text("{}", encoding="utf-8"),
        4,
        "model_cfg",
    ),
    "a configuration that is a list": (
        lambda f: (f / "open_clip_config.json").write_text("[]", encoding="utf-8"),
        4,
        "",
    ),
    "every key begins with x.": (
        lambda f: edit_weights(
            f / "open_clip_model.safetensors", lambda w: {f"x.{k}": v for k, v in w.items()}
        ),
        4,
        "",
    ),
    "half of the weights": (
        lambda f: edit_weights(
            f / "open_clip_model.safetensors", lambda w: dict(list(w.items())[::2])
        ),
        4,
        "Missing key",
    ),
    "position embeddings of larger pictures": (
        lambda f: edit_weights(
            f / "open_clip_model.safetensors",
            lambda w: {**w, "visual.positional_embedding": torch.randn(17, 16)},
        ),
        4,
        "Resizing position embedding",
    ),
    "position embeddings of longer texts": (
        lambda f: edit_weights(
            f / "open_clip_model.safetensors",
            lambda w: {**w, "positional_embedding": torch.randn(99, 16)},
        ),
        4,
        "Resizing text position embedding",
    ),
    "whole numbers": (
        lambda f: edit_weights(
            f / "open_clip_model.safetensors", lambda w: {k: v.char() for k, v in w.items()}
        ),
        4,
        "quantised",
    ),
    "whole numbers kept as floats": (
        lambda f: edit_weights(
            f / "open_clip_model.safetensors",
            lambda w: {k: (v * 127).round() for k, v in w.items()},
        ),
        4,
        "whole numbers",
    ),
    "a tokenizer of transformers": (
        lambda f: edit_json(
            f / "open_clip_config.json",
            model_cfg={
                **json.loads((f / "open_clip_config.json").read_text(encoding="utf-8"))[
                    "model_cfg"
                ],
                "text_cfg": {"width": 16, "heads": 2, "layers": 1, "hf_tokenizer_name": "none"},
            },
        ),
        3,
        "must hold a tokenizer",
    ),
    "a pickle that calls": (open_clip_pickle, 4, "never run"),
}


@pytest.mark.parametrize("case", OPEN_CLIP)
def test_an_open_clip_folder_is_whole_or_refused(refused, tmp_path, case):
    spoil, code, says = OPEN_CLIP[case]
    folder = write_open_clip(tmp_path / "oc")
    spoil(folder)
    assert "HF_HOME" not in refused(code, *RUN, "-b", f"local-dir:{folder}", says=says)


def test_a_rectangle_is_refused_by_name(refused, tmp_path):
    folder = write_open_clip(tmp_path / "oc", vision_cfg={"image_size": (64, 32)})
    refused(2, *RUN, "-b", f"local-dir:{folder}", says="64 × 32")


def test_a_square_list_is_its_side(tmp_path):
    hf = write_hf(tmp_path / "hf")
    edit_config(hf, "vision_config", image_size=[32, 32])
    assert load_backbone(f"hf:{hf}").image_spec.size == 32
    folder = write_open_clip(tmp_path / "oc", vision_cfg={"image_size": (64, 64)})
    assert load_backbone(f"local-dir:{folder}").image_spec.size == 64


def test_a_device_that_holds_no_numbers_is_refused(refused):
    refused(2, *RUN, "-b", "fake", "--device", "meta", says="--device auto")


NAMES = {
    "": "unknown backbone",
    "hf:": "unknown backbone",
    "hf:./nowhere": "must be a folder that exists",
    "local-dir:/nowhere": "must be a folder that exists",
    "emoji-clop": "did you mean emoji-clip",
    "ViT-B-33/openai": "no architecture",
    "ViT-B-32/nothing": "no weights",
    "roberta-ViT-B-32/laion2b_s12b_b32k": "must be open_clip's own",
    "emoji-clip=fake": "is a backbone of its own",
    "x=": "unknown backbone",
    "x=emoji-clop": "did you mean emoji-clip",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_stands_for_nothing_is_refused(refused, name):
    refused(3 if "nowhere" in name else 2, *RUN, "-b", name, says=NAMES[name])


def test_texts_get_another_tokenizer_digest_where_anything_of_it_differs(tmp_path):
    def load(name, **text_cfg):
        return load_backbone(f"local-dir:{write_open_clip(tmp_path / name, text_cfg=text_cfg)}")

    plain = load("a")
    spaces = load("b", tokenizer_kwargs={"clean": "whitespace"})
    unmasked = load("c", no_causal_mask=True)
    assert plain.weights_sha256 == spaces.weights_sha256 == unmasked.weights_sha256
    assert plain.tokenizer_sha256 != spaces.tokenizer_sha256
    assert plain.architecture_sha256 != unmasked.architecture_sha256
    again = load_backbone(f"local-dir:{tmp_path / 'a'}")
    assert (plain.tokenizer_sha256, plain.architecture_sha256) == (
        again.tokenizer_sha256,
        again.architecture_sha256,
    )


def test_a_mended_vocabulary_file_is_another_tokenizer(tmp_path):
    folder = write_hf(tmp_path / "hf")
    before = load_backbone(f"hf:{folder}").tokenizer_sha256
    path = folder / "merges.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[40_000], lines[40_001] = lines[40_001], lines[40_000]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert load_backbone(f"hf:{folder}").tokenizer_sha256 != before


@pytest.mark.parametrize("texts", [("red dog", "car is"), ("a dog", "a  dog !"), ("*", "* *")])
def test_different_texts_have_different_tokens(tmp_path, texts):
    backbone = load_backbone(f"hf:{write_hf(tmp_path / 'hf')}")
    with torch.no_grad():
        one, other = backbone.encode_texts(texts)
    assert not torch.equal(one, other)
