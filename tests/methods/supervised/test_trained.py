"""Methods over checkpoints, and the backbone that an end-to-end training is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from networks import scramble
from safetensors.torch import load_file
from torch.nn.functional import normalize
from triplets import PROTOCOL, SMALL, WORDINGS, make_training_job

from cirbench.benchmark.api.values import Query
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import read_checkpoint, write_checkpoint
from cirbench.benchmark.embedding.pictures import read_pixels
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.compose import QueryBatch
from cirbench.benchmark.evaluation.weights import find_backbone_of, find_weights
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.methods.artemis.method import Artemis, score
from cirbench.methods.supervised import training
from cirbench.methods.tirg.method import Tirg
from cirbench.testing import check_method

END_TO_END = [
    ("tirg", {}),
    ("tirg", {"fusion": "last-conv"}),
    ("tirg", {"fusion": "concat"}),
    ("maaf", {}),
    ("artemis", {}),
    ("artemis", {"text_tower": "lstm"}),
]
WITH_TRUNK = ("tirg", "maaf", "artemis")


def name_of(case):
    return case if isinstance(case, str) else "-".join(case.values())


@pytest.fixture
def write(tmp_path, picture_refs):
    """Writes a checkpoint as a training does, its weights as if trained."""

    def make(method, backbone, *, seed=0, changes=None, **numbers):
        path = tmp_path / f"{method}-{seed}.safetensors"
        job = make_training_job(method, load_backbone(backbone), picture_refs(8), path, **numbers)
        network, words = training.start(job)
        header = {**job.identity(), **training.make_header(job, network, words), **(changes or {})}
        header = {name: value for name, value in header.items() if value is not None}
        write_checkpoint(path, scramble(network, seed).state_dict(), header)
        return path

    return make


def build(path, backbone):
    checkpoint = read_checkpoint(path)
    method = {m.name: m for m in map(training.find_method, SMALL)}[path.name.partition("-")[0]]
    return method.build(backbone=backbone, checkpoint=checkpoint)


def batch_of(backbone, refs, texts=WORDINGS):
    queries = [
        Query(id=str(i), reference=ref, positives=(), fields={"what": texts[i % len(texts)]})
        for i, ref in enumerate(refs)
    ]
    with torch.inference_mode():
        pixels = read_pixels(refs, PROTOCOL.preprocess, backbone, 2)
        features = backbone.encode_images(pixels)
    return QueryBatch(
        protocol=PROTOCOL,
        queries=queries,
        reference_features=features,
        encoder=TextFeatures(backbone=backbone, truncate=False),
    )


def captions_of(batch):
    return [query.fields["what"] for query in batch.queries]


@pytest.mark.parametrize(("method", "numbers"), END_TO_END, ids=name_of)
def test_queries_over_trained_towers_are_the_networks_own_forward(
    method, numbers, write, picture_refs
):
    path = write(method, "tiny", **numbers)
    backbone = load_backbone(f"trained:{path}")
    built = build(path, backbone)
    network, words = built.read(read_checkpoint(path))
    batch = batch_of(backbone, picture_refs(6))
    with torch.inference_mode():
        texts = words.encode_batch(captions_of(batch))
        expected = network.eval().compose(batch.reference_pixels, texts)
        found = built.compose(batch)
    if method != "artemis":
        expected = normalize(expected, dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(found.flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize(("method", "numbers"), END_TO_END, ids=name_of)
def test_rows_and_texts_of_trained_towers_are_the_networks_own(
    method, numbers, write, picture_refs
):
    path = write(method, "tiny", **numbers)
    backbone = load_backbone(f"trained:{path}")
    built = build(path, backbone)
    network, words = built.read(read_checkpoint(path))
    pixels = read_pixels(picture_refs(6), "imagenet", backbone, 2)
    with torch.inference_mode():
        rows, expected = backbone.encode_images(pixels), network.eval().embed_images(pixels)
        torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)
        ranked = rows if method == "artemis" else normalize(rows, dim=1)
        torch.testing.assert_close(built.gallery(rows), ranked)
        texts = backbone.encode_texts(WORDINGS)
        expected = network.embed_texts(words.encode_batch(WORDINGS))
    torch.testing.assert_close(texts, expected, atol=1e-5, rtol=1e-5)
    assert rows.shape == (6, backbone.embedding_width)


@pytest.mark.parametrize("method", WITH_TRUNK)
def test_a_selection_in_training_judges_what_is_then_evaluated(
    method, tiny, picture_refs, tmp_path, monkeypatch
):
    job = make_training_job(method, tiny, picture_refs(16), tmp_path / f"{method}-a.safetensors")
    seen = {}
    original = training.score_selection

    def look(judged, selection, data, images, texts, **more):
        seen["rows"], seen["judged"] = images.of(data.gallery).clone(), judged
        return original(judged, selection, data, images, texts, **more)

    monkeypatch.setattr(training, "score_selection", look)
    job = replace(job, recipe=replace(job.recipe, **last_epoch(method)))
    training.train(job, Reporter(quiet=True))
    backbone = load_backbone(f"trained:{job.output}")
    preprocess = job.selection.protocol.preprocess
    pixels = read_pixels(job.validation.gallery, preprocess, backbone, 2)
    with torch.inference_mode():
        torch.testing.assert_close(
            backbone.encode_images(pixels), seen["rows"], atol=1e-5, rtol=1e-5
        )
        batch = batch_of(backbone, picture_refs(6))
        found, judged = build(job.output, backbone).compose(batch), seen["judged"].compose(batch)
    torch.testing.assert_close(found, judged, atol=1e-5, rtol=1e-5)


def last_epoch(method):
    """Numbers of a training whose only epoch is the best."""
    return {"first_epochs": 0, "epochs": 1} if method == "artemis" else {"steps": 1}


@pytest.mark.parametrize("backbone", ["fake", "tiny"])
@pytest.mark.parametrize("method", SMALL)
def test_queries_over_frozen_features_are_the_networks_own_forward(
    method, backbone, write, picture_refs
):
    path = write(method, backbone, **({} if method == "cirplant" else {"frozen": True}))
    loaded = load_backbone(backbone)
    built = build(path, loaded)
    batch = batch_of(loaded, picture_refs(6))
    with torch.inference_mode():
        texts = (
            built.words.encode_batch(captions_of(batch))
            if built.words
            else loaded.encode_texts(captions_of(batch))
        )
        expected = built.network.compose(batch.reference_features, texts)
        rows = built.network.embed_images(batch.reference_features)
        if method != "artemis":
            expected, rows = normalize(expected, dim=1), normalize(rows, dim=1)
        torch.testing.assert_close(built.compose(batch), expected)
        torch.testing.assert_close(built.gallery(batch.reference_features), rows)
    assert (built.words is None) == (backbone == "fake" and method != "cirplant")


def test_artemis_alone_has_a_score_of_its_own(write):
    for method in SMALL:
        path = write(method, "fake")
        built = build(path, load_backbone("fake"))
        assert bool(built.own_score) == (method == "artemis")
    queries, rows = torch.randn(3, 4, 6), torch.randn(5, 6)
    artemis = partial(Artemis.score, None)
    assert torch.equal(artemis(queries, rows), score(queries, rows))


@pytest.mark.parametrize("texts", [("",), ("…",), ("", "next")], ids=["empty", "dots", "one empty"])
@pytest.mark.parametrize(
    ("method", "backbone"),
    [
        (m, b)
        for m in SMALL
        for b in ("fake", "tiny", "trained")
        if (m, b) != ("cirplant", "trained")
    ],
)
def test_captions_without_words_are_composed(method, texts, backbone, write, picture_refs):
    if backbone == "trained":
        path = write(method, "tiny")
        loaded = load_backbone(f"trained:{path}")
    else:
        path = write(method, backbone, **({} if method == "cirplant" else {"frozen": True}))
        loaded = load_backbone(backbone)
    with torch.inference_mode():
        found = build(path, loaded).compose(batch_of(loaded, picture_refs(4), texts))
    assert found.isfinite().all()


@pytest.mark.parametrize("method", WITH_TRUNK)
def test_a_query_does_not_depend_on_the_others_of_its_batch(method, write, picture_refs):
    path = write(method, "tiny")
    backbone = load_backbone(f"trained:{path}")
    built, refs = build(path, backbone), picture_refs(4)
    with torch.inference_mode():
        together = built.compose(batch_of(backbone, refs, ["next", "the next one of many words"]))
        alone = built.compose(batch_of(backbone, refs[:1], ["next"]))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", SMALL)
def test_each_keeps_the_contract_over_a_clip(method, write):
    check_method(method, backbone="fake", checkpoint=write(method, "fake"))


@pytest.mark.parametrize(("method", "numbers"), END_TO_END, ids=name_of)
def test_each_keeps_the_contract_over_its_own_towers(method, numbers, write):
    check_method(method, backbone=f"trained:{write(method, 'tiny', **numbers)}")


@pytest.mark.parametrize("method", WITH_TRUNK)
def test_queries_and_rows_are_computed_in_full_float32(method, write, picture_refs, monkeypatch):
    path = write(method, "tiny")
    backbone = load_backbone(f"trained:{path}")
    built, allowed = build(path, backbone), []
    name = "tokenize_texts" if method == "maaf" else "embed_texts"
    original = getattr(built.network, name)

    def look(texts):
        allowed.append(torch.backends.cudnn.allow_tf32)
        return original(texts)

    monkeypatch.setattr(built.network, name, look)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with torch.inference_mode():
        built.compose(batch_of(backbone, picture_refs(2)))
    assert allowed == [False]
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["bf16", "amp_bf16"])
@pytest.mark.parametrize("method", WITH_TRUNK)
def test_trained_towers_can_be_run_in_another_precision(method, precision, write, picture_refs):
    path = write(method, "tiny")
    full = load_backbone(f"trained:{path}")
    other = load_backbone(f"trained:{path}", precision=precision)
    refs = picture_refs(4)
    with torch.inference_mode():
        one, two = (build(path, b).compose(batch_of(b, refs)) for b in (full, other))
        texts = [normalize(b.encode_texts(WORDINGS), dim=1) for b in (full, other)]
    assert two.dtype == texts[1].dtype == torch.float32
    torch.testing.assert_close(one, two, atol=0.1, rtol=0.1)
    torch.testing.assert_close(*texts, atol=0.1, rtol=0.1)


# Names


def test_trained_towers_are_named_by_their_weights(write):
    one, two = (load_backbone(f"trained:{write('tirg', 'tiny', seed=s)}") for s in (0, 1))
    assert one.name == f"trained:tirg+{one.weights_sha256[:8]}"
    assert one.name != two.name
    assert (one.image_spec.size, one.token_width) == (48, 0)


def test_trained_towers_take_no_prompts(write):
    backbone = load_backbone(f"trained:{write('maaf', 'tiny')}")
    with pytest.raises(UsageError, match="takes no pseudo-words; choose a method without prompts"):
        backbone.encode_prompts(["a *"], torch.zeros(1, 1))


@pytest.mark.parametrize("wanted", [None, "tiny", "trained:"])
def test_an_end_to_end_file_is_its_own_backbone(wanted, write):
    path = write("artemis", "tiny")
    asked = f"trained:{path}" if wanted == "trained:" else wanted
    assert find_backbone_of(asked, [path]) == f"trained:{path}"


def test_a_frozen_file_is_run_over_the_backbone_of_its_header(write):
    path = write("artemis", "fake")
    assert find_backbone_of(None, [path]) == "fake"
    assert find_backbone_of("emoji-clip", [path]) == "emoji-clip"


def test_files_of_different_towers_are_run_one_at_a_time(write):
    paths = [write("artemis", "tiny"), write("tirg", "tiny")]
    with pytest.raises(UsageError, match="run them one at a time"):
        find_backbone_of(None, paths)


def test_the_file_that_is_a_backbone_is_its_own_methods_weights(write):
    path = write("artemis", "tiny")
    assert find_weights("artemis", f"trained:{path}", {}) == path
    assert find_weights("image-only", f"trained:{path}", {}) is None
    with pytest.raises(MissingData, match="tirg needs --checkpoint tirg=FILE"):
        find_weights("tirg", f"trained:{path}", {})


# What does not fit


def test_an_end_to_end_file_over_other_towers_says_how_it_is_run(write):
    path, other = write("artemis", "tiny"), write("artemis", "tiny", seed=1)
    for backbone in ("emoji-clip", "fake", "tiny", f"trained:{other}"):
        with pytest.raises(CorruptData, match=f"--backbone trained:{path}, got "):
            build(path, load_backbone(backbone))


def test_a_checkpoint_of_another_method_names_both(write):
    checkpoint = read_checkpoint(write("artemis", "fake"))
    with pytest.raises(CorruptData, match=r"must say tirg, .* and says artemis"):
        Tirg.build(backbone=load_backbone("fake"), checkpoint=checkpoint)


@pytest.mark.parametrize("method", SMALL)
def test_a_frozen_file_over_a_backbone_of_another_width_names_both(method, write):
    path = write(method, "fake")
    with pytest.raises(CorruptData, match=r"width 32; emoji-clip has 128: it was trained for"):
        build(path, load_backbone("emoji-clip"))


@pytest.mark.parametrize("method", WITH_TRUNK)
def test_a_file_that_reads_texts_through_its_backbone_needs_one_with_texts(method, write):
    path = write(method, "fake")
    with pytest.raises(CorruptData, match="tiny has no text tower"):
        build(path, load_backbone("tiny"))


def test_other_weights_of_the_same_width_are_remarked_on(write, monkeypatch):
    path = write("tirg", "fake")
    other = load_backbone("fake")
    assert build(path, other).remarks == ()
    monkeypatch.setattr(other, "weights_sha256", "0")
    assert "its numbers mean nothing" in build(path, other).remarks[0]


DAMAGED = {
    "no vocabulary": ({"words": None}, "it lacks 'words'"),
    "a longer vocabulary": ({"words": ["<UNK>", *map(str, range(99))]}, "must have 4 words, got"),
    "a word twice": ({"words": ["<UNK>", "a", "a", "b"]}, "hold each word once"),
    "others' words": ({"words": ["a", "b", "c", "d"]}, "must begin with <UNK>"),
    "words of no list": ({"words": 3}, "not iterable"),
    "no shape": ({"shape": None}, "it lacks 'shape'"),
    "an odd shape": ({"shape": {"width": 16, "depth": 3}}, "depth"),
    "a shape of words": ({"shape": "wide"}, "must be a mapping"),
    "another trunk": (
        {"shape": {"width": 16, "trunk": "resnet18", "words": 4}},
        "of another shape|missing",
    ),
    "an unknown trunk": (
        {"shape": {"width": 16, "trunk": "resnet1", "words": 4}},
        "unknown trunk 'resnet1'",
    ),
    "another width": ({"shape": {"width": 18, "trunk": "tiny", "words": 4}}, "of another shape"),
    "another fusion": (
        {"shape": {"width": 16, "trunk": "tiny", "words": 4, "fusion": "concat"}},
        "missing: fusion.layers",
    ),
    "a width of a machine": (
        {"shape": {"width": 90_000, "trunk": "tiny", "words": 4}},
        "of another shape",
    ),
    "a number beyond all weights": (
        {"shape": {"width": 16, "trunk": "tiny", "words": 10**12}},
        "words must be at most",
    ),
    "a number below nothing": (
        {"shape": {"width": -1, "trunk": "tiny", "words": 4}},
        "width must be at most",
    ),
    "words that are numbers": ({"words": ["<UNK>", 1, 2, 3]}, "must be a list of texts"),
    "no kind": ({"kind": None}, "None"),
    "an unknown kind": ({"kind": "nobody"}, "nobody"),
    "a kind of no name": ({"kind": ["tirg"]}, "tirg"),
    "a kind without towers": ({"kind": "combiner"}, "combiner"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_header_is_refused_by_method_and_backbone(case, write):
    changes, words = DAMAGED[case]
    path = write("tirg", "tiny", changes=changes)
    with pytest.raises(CorruptData, match=words):
        load_backbone(f"trained:{path}")
    with pytest.raises(CorruptData, match=words):
        build(path, load_backbone("tiny"))


@pytest.mark.parametrize(
    "image",
    [
        None,
        3,
        {},
        {"size": "large", "mean": [0, 0, 0], "std": [1, 1, 1]},
        {"size": 48, "mean": [0, 0], "std": [1, 1, 1]},
        {"size": 48, "mean": [0, 0, 0], "std": [0, 0, 0]},
    ],
)
def test_a_header_without_a_sound_picture_size_is_no_backbone(image, write):
    path = write("tirg", "tiny", changes={"image": image})
    with pytest.raises(CorruptData, match=str(path)):
        load_backbone(f"trained:{path}")


@pytest.mark.parametrize("method", SMALL)
def test_a_frozen_file_is_no_backbone(method, write):
    path = write(method, "fake")
    with pytest.raises(CorruptData, match=r"frozen features|method with towers"):
        load_backbone(f"trained:{path}")


def test_a_file_that_is_not_there_or_no_weights_is_no_backbone(tmp_path):
    with pytest.raises(MissingData, match="nowhere"):
        load_backbone(f"trained:{tmp_path / 'nowhere.safetensors'}")
    (tmp_path / "text.safetensors").write_text("text", encoding="utf-8")
    with pytest.raises(CorruptData, match="not a whole safetensors file"):
        load_backbone(f"trained:{tmp_path / 'text.safetensors'}")


def test_weights_of_the_authors_say_that_they_have_no_header(write, tmp_path):
    torch.save({"network": load_file(write("tirg", "fake"))}, tmp_path / "tirg-authors.pt")
    with pytest.raises(CorruptData, match="as bench train tirg writes it, and says None"):
        build(tmp_path / "tirg-authors.pt", load_backbone("fake"))
