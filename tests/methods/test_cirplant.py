"""CIRPLANT's network, against the authors' numbers and by itself."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from networks import (
    FOLDER,
    assert_gradients,
    assert_near,
    draw,
    needs_golden,
    prepare_gradients,
    read_golden,
    scramble,
)
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.methods.cirplant.method import (
    Cirplant,
    CirplantNetwork,
    CirplantShape,
    WordPieces,
    rename_official,
)
from cirbench.methods.cirplant.training import CirplantRecipe
from cirbench.methods.supervised.losses import soft_triplet_loss
from cirbench.methods.supervised.vocabulary import TokenBatch, pad


@pytest.fixture
def golden():
    return read_golden("dev_cirplant")


@pytest.fixture
def network(golden):
    return CirplantNetwork.from_official(golden.state, heads=golden.facts["heads"]).eval()


@pytest.fixture
def texts(golden):
    words = (FOLDER / "vocab_cirplant.txt").read_text(encoding="utf-8").split("\n")
    pieces = WordPieces(tuple(word for word in words if word), golden.facts["length"])
    texts = pieces.encode_batch(golden.facts["texts"])
    assert torch.equal(texts.ids, golden["in/ids"])
    assert torch.equal(texts.mask, golden["in/mask_with_image"][:, :-1].bool())
    return texts


@needs_golden
def test_the_authors_vectors_and_scores(golden, network, texts):
    features = golden["in/features"]
    with torch.no_grad():
        states = network.encode(features[:4], texts)
        queries, gallery = network.compose(features[:4], texts), network.embed_images(features)
    assert_near(states, golden["eval/last_hidden"])
    assert_near(gallery, golden["eval/gallery_raw"])
    assert_near(normalize(gallery, dim=1), golden["eval/gallery"])
    assert_near(normalize(queries, dim=1), golden["eval/query"])
    assert_near(normalize(queries, dim=1) @ normalize(gallery, dim=1).T, golden["eval/scores"])


@needs_golden
def test_the_authors_soft_triplets_have_half_of_our_gradient(golden, network, texts):
    prepare_gradients(network)
    features = golden["in/features"].double()
    members = network.embed_images(golden["in/set_features"].double().flatten(0, 1)[:, :-6])
    stack = torch.cat(
        [network.compose(features[:4], texts), network.embed_images(features[4:8]), members]
    )
    stack = network.scale * normalize(stack, dim=1)
    assert_near(stack.float(), golden["train/stack"])
    stack.retain_grad()
    loss = soft_triplet_loss(stack, torch.tensor(golden.facts["triplets"]))
    assert loss.item() == pytest.approx(golden.facts["loss_train_no_dropout"], rel=1e-4)
    loss.backward()
    norm = stack.grad.norm().item()
    assert norm == pytest.approx(golden.facts["grad_wrt_stack_true"], rel=1e-4)
    assert_gradients(network, rename_official({n: n for n in golden.state}), golden, factor=0.5)


def make(**shape) -> CirplantNetwork:
    small = {"image_width": 5, "words": 9, "width": 8, "layers": 2, "heads": 2, "hidden": 6}
    return scramble(CirplantNetwork(CirplantShape(**{**small, "positions": 12, **shape})))


TEXTS = pad([[2, 5, 6, 3], [2, 3]])
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "long", "##er", "dog")


def test_padding_never_changes_a_query():
    network, features = make(), draw(2, 5)
    with torch.no_grad():
        alone = network.compose(features[1:], pad([[2, 3]]))
        filled = TokenBatch(torch.tensor([[2, 3, 8, 6, 0]]), torch.tensor([2]))
        torch.testing.assert_close(network.compose(features, TEXTS)[1:], alone)
        torch.testing.assert_close(network.compose(features[1:], filled), alone)
        other = network.compose(features[1:], pad([[2, 8, 3]]))
    assert (other - alone).abs().max() > 1e-3


def test_the_pictures_token_enters_as_the_gallery_sees_it():
    network, features = make(layers=0), draw(2, 5)
    weights, bias = network.image_projection.weight, network.image_projection.bias
    with torch.no_grad():
        expected = features @ weights[:, :5].T + bias  # six zeros follow a feature
        torch.testing.assert_close(network.embed_images(features), expected)
        torch.testing.assert_close(network.compose(features, TEXTS), expected)


def test_words_enter_through_berts_own_sum():
    network = make(layers=0)
    state = {n: t for n, t in network.state_dict().items() if "embeddings" in n}
    table = {n.split(".")[2].removesuffix("_embeddings"): t for n, t in state.items()}
    raw = table["word"][TEXTS.ids] + table["position"][:4] + table["token_type"][0]
    norm = network.bert.embeddings.LayerNorm
    expected = torch.nn.functional.layer_norm(raw, (8,), norm.weight, norm.bias, eps=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(network.encode(draw(2, 5), TEXTS)[:, :-1], expected)


def test_a_picture_in_training_is_dropped_on_the_query_side_alone():
    network, features = make(layers=0), draw(2, 5)
    network.train()
    with torch.no_grad():
        gallery = network.embed_images(features)
        torch.manual_seed(0)
        query = network.compose(features, TEXTS)
    kept = query != 0
    assert 0 < kept.sum() < query.numel()
    torch.testing.assert_close(query[kept], gallery[kept] / 0.7)


def test_a_text_is_cut_and_still_ends_in_sep():
    texts = WordPieces(WORDS).encode_batch(["Longer red DOG", "", "red " * 60])
    assert texts.ids[0, :6].tolist() == [2, 6, 7, 5, 8, 3]
    assert texts.lengths.tolist() == [6, 2, 40]
    assert texts.ids[2].tolist() == [2, *[5] * 38, 3]


def test_unknown_words_are_unknown():
    assert WordPieces(WORDS).encode_batch(["blue"]).ids.tolist() == [[2, 1, 3]]


def test_the_papers_sizes_are_the_defaults():
    shape = CirplantShape()
    assert (shape.width, shape.layers, shape.heads, shape.hidden) == (768, 12, 12, 3072)
    with torch.device("meta"):
        network = CirplantNetwork(shape)
    assert network.image_projection.weight.shape == (768, 2054)
    pooler = 768 * 768 + 768  # of BERT-base's 109,482,240 parameters; no query asks it
    assert sum(p.numel() for p in network.bert.parameters()) == 109_482_240 - pooler


def test_a_shape_can_be_stored_as_json():
    shape = CirplantShape(layers=2, dropout=0.1)
    assert CirplantShape(**json.loads(json.dumps(asdict(shape)))) == shape


@pytest.fixture
def bert(tmp_path):
    """A folder of a small BERT with a vocabulary of its own."""
    torch.manual_seed(0)
    numbers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=8, intermediate_size=24, max_position_embeddings=48, **numbers)
    BertModel(config).save_pretrained(tmp_path / "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "red", "##dish"]
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return tmp_path / "bert"


def start(init, **numbers):
    settings = {**asdict(CirplantRecipe()), "init": str(init), **numbers}
    return Cirplant.start(settings, {"image_width": 5, "words": True}, ["a cat"])


def test_a_training_begins_with_the_weights_and_words_of_a_published_bert(bert):
    network, words = start(bert, dropout=0.2, attention_dropout=0.05, width=99)
    theirs = BertModel.from_pretrained(bert, add_pooling_layer=False).state_dict()
    ours = network.bert.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert words.encode("reddish dog, cat") == [2, 6, 7, 5, 1, 1, 3]
    shape = network.shape
    assert (shape.width, shape.layers, shape.heads, shape.hidden, shape.positions) == (
        16,
        2,
        2,
        24,
        48,
    )
    assert (shape.dropout, shape.attention_dropout) == (0.2, 0.05)
    rates = {m.p for name, m in network.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.2, 0.05}


def test_without_a_published_bert_words_are_those_of_the_training():
    network, words = start("", width=16, layers=1, heads=2, hidden=16)
    assert words.words[5:] == ("a", "cat")
    assert network.shape.words == 7


def test_a_bert_that_lacks_weights_is_refused(bert):
    weights = load_file(bert / "model.safetensors")
    del weights["embeddings.word_embeddings.weight"]
    save_file(weights, bert / "model.safetensors", {"format": "pt"})
    with pytest.raises(CorruptData, match="must hold all weights of a BERT, lacks embeddings"):
        start(bert)
