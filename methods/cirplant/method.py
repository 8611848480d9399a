"""CIRPLANT: BERT reads the caption, then the reference as one more token.

Liu, Rodriguez-Opazo, Teney, Gould. Image Retrieval on Real-life Images with Pre-trained
Vision-and-Language Models. ICCV 2021, arXiv 2108.04024. Follows Cuberick-Orion/CIRPLANT.

f is a picture's frozen feature with six zeros after it, which stand for the box that OSCAR expects;
P is one Linear. The words' embeddings go through BERT's sum, layer norm and dropout; then comes the
token dropout(P f), without norm, position or segment. The query is the last state of that token,
and the gallery's side P f itself; their cosine is the score.

Known deviations: none. Texts are padded to the longest of a batch rather than to 40 tokens, which
changes nothing: padding is masked, and the picture's token has no position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.functional import pad as pad_zeros
from transformers import BertConfig, BertModel, BertTokenizer

from cirbench.benchmark.backbones.loading import translate_errors
from cirbench.benchmark.checkpoints import fill_network, name_some
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.methods.supervised.batch import Batch
from cirbench.methods.supervised.losses import draw_set_triplets, soft_triplet_loss
from cirbench.methods.supervised.method import Supervised
from cirbench.methods.supervised.official import T, rename
from cirbench.methods.supervised.vocabulary import TokenBatch, Vocabulary

BOX = 6
"""Zeros after a feature."""
LENGTH = 40
"""Tokens of a text at most, [CLS] and [SEP] among them."""
SCALE = 4.0
"""Of all vectors in the loss, at first; it is learned."""
_MASKED = -10_000.0
_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True, kw_only=True)
class CirplantShape:
    """CIRPLANT's widths; the defaults are BERT-base's. Its fields are JSON.

    Attributes:
        image_width: of the frozen image features; ResNet-152's have 2048.
        words: the WordPiece vocabulary's size.
        width: of BERT's states, and of the space of queries and gallery.
        layers, heads, hidden: of BERT; `hidden` is its feed-forward width.
        positions: of texts.
        dropout, attention_dropout: in training.
    """

    image_width: int = 2048
    words: int = 30_522
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: int = 512
    dropout: float = 0.3
    attention_dropout: float = 0.1


@dataclass(frozen=True)
class WordPieces(Vocabulary):
    """BERT's uncased WordPiece, over any vocabulary that has its special tokens.

    Attributes:
        length: to how many tokens a text is cut, [CLS] and [SEP] among them.

    Raises:
        ValueError: a special token is lacking, or a word occurs twice.
    """

    length: int = LENGTH
    specials: ClassVar[tuple[str, ...]] = ()  # BERT's stand among the others

    def __post_init__(self) -> None:
        super().__post_init__()
        if lacking := [token for token in _SPECIALS if token not in self.words]:
            raise ValueError(f"a vocabulary must hold {' '.join(_SPECIALS)}, lacks {lacking[0]}")

    @cached_property
    def _tokenizer(self) -> BertTokenizer:
        return BertTokenizer(vocab=self._ids)

    @classmethod
    def build(cls, texts: Iterable[str]) -> WordPieces:
        """Gather the whole words of texts, in alphabetical order."""
        splitter = BertPreTokenizer()
        found = {
            word
            for text in texts
            for word, _ in splitter.pre_tokenize_str(BertNormalizer().normalize_str(text))
        }
        return cls((*_SPECIALS, *sorted(found)))

    def encode(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, truncation=True, max_length=self.length).input_ids
        return found


class CirplantNetwork(nn.Module):
    """(B, C) frozen features and words → (B, H) vectors, not normalised."""

    def __init__(self, shape: CirplantShape) -> None:
        super().__init__()
        self.shape = shape
        config = BertConfig(
            vocab_size=shape.words,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.hidden,
            max_position_embeddings=shape.positions,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.attention_dropout,
        )
        config._attn_implementation = "eager"  # the published sum; no kernel's own masking
        self.bert = BertModel(config, add_pooling_layer=False)
        self.image_projection = nn.Linear(shape.image_width + BOX, shape.width)
        self.scale = nn.Parameter(torch.tensor([SCALE]))

    def embed_images(self, features: Tensor) -> Tensor:
        """(B, C) frozen features → (B, H), what is ranked."""
        return self.image_projection(pad_zeros(features, (0, BOX)))  # type: ignore[no-any-return]  # nn.Module is untyped

    def encode(self, references: Tensor, texts: TokenBatch) -> Tensor:
        """(B, C) features and (B, L) words → (B, L + 1, H) last states, the picture's last."""
        words = self.bert.embeddings(input_ids=texts.ids)
        picture = self.bert.embeddings.dropout(self.embed_images(references))
        hidden = pad_zeros(~texts.mask, (0, 1))  # the picture can always be seen
        mask = hidden[:, None, None, :].to(words.dtype) * _MASKED
        states = self.bert.encoder(torch.cat([words, picture[:, None]], dim=1), mask)
        return states.last_hidden_state  # type: ignore[no-any-return]  # transformers is untyped

    def compose(self, references: Tensor, texts: TokenBatch) -> Tensor:
        """(B, C) features of references, and words → (B, H) queries."""
        return self.encode(references, texts)[:, -1]

    def compute_loss(self, batch: Batch) -> Tensor:
        """Soft triplets over queries, targets, and what answers as well as these."""
        assert isinstance(batch.texts, TokenBatch), "BERT reads words"
        queries = self.compose(batch.references, batch.texts)
        pictures = self.embed_images(torch.cat([batch.targets, batch.equals]))
        vectors = self.scale * normalize(torch.cat([queries, pictures]), dim=1)
        return soft_triplet_loss(vectors, draw_set_triplets(batch.positives, batch.rng))

    @classmethod
    def from_bert(
        cls, name: str, image_width: int, **dropouts: float
    ) -> tuple[CirplantNetwork, WordPieces]:
        """Make a network of a published BERT: `bert-base-uncased`, or a folder.

        Args:
            dropouts: of `CirplantShape`.

        Raises:
            MissingData: it is not on this machine and cannot be fetched.
            CorruptData: it is no BERT.
        """
        folder = Path(name) if Path(name).is_dir() else None
        with translate_errors(name, folder, "BERT"):
            loaded: Any = BertModel.from_pretrained(
                name, add_pooling_layer=False, output_loading_info=True
            )
            tokenizer = BertTokenizer.from_pretrained(name)
        bert, info = loaded
        if lacking := [*info["missing_keys"], *info["mismatched_keys"]]:
            raise CorruptData(f"{name} must hold all weights of a BERT, lacks {name_some(lacking)}")
        words = WordPieces(tuple(sorted(tokenizer.vocab, key=tokenizer.vocab.__getitem__)))
        shape = CirplantShape(
            image_width=image_width,
            words=len(words),
            width=bert.config.hidden_size,
            layers=bert.config.num_hidden_layers,
            heads=bert.config.num_attention_heads,
            hidden=bert.config.intermediate_size,
            positions=bert.config.max_position_embeddings,
            **dropouts,
        )
        network = cls(shape)
        network.bert.load_state_dict(bert.state_dict())
        return network, words

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], *, heads: int = 12) -> CirplantNetwork:
        """Make the network of the authors' weights; for use within `loading_network`.

        Args:
            heads: what no weight's shape tells.
        """
        words, width = state[f"{_BERT}embeddings.word_embeddings.weight"].shape
        inner = "intermediate.dense.weight"
        shape = CirplantShape(
            image_width=state[f"{_BERT}img_embedding.weight"].shape[1] - BOX,
            words=words,
            width=width,
            layers=sum(name.endswith(inner) for name in state),
            heads=heads,
            hidden=state[f"{_BERT}encoder.layer.0.{inner}"].shape[0],
            positions=state[f"{_BERT}embeddings.position_embeddings.weight"].shape[0],
        )
        with torch.random.fork_rng(devices=[]):
            network = cls(shape)
        fill_network(network, rename_official(state))
        return network


class Cirplant(Supervised):
    """BERT's state at the reference, which it reads after the text."""

    name: ClassVar[str] = "cirplant"
    title: ClassVar[str] = "CIRPLANT"
    network_type: ClassVar[type[Any]] = CirplantNetwork
    shape_type: ClassVar[type[Any]] = CirplantShape
    vocabulary_type: ClassVar[type[Any]] = WordPieces
    reads_features: ClassVar[bool] = False

    @classmethod
    def start(
        cls, settings: Mapping[str, Any], towers: Mapping[str, Any], texts: Sequence[str]
    ) -> tuple[Any, Any]:
        if not settings["init"]:
            return super().start(settings, towers, texts)
        dropouts = {name: settings[name] for name in ("dropout", "attention_dropout")}
        return CirplantNetwork.from_bert(settings["init"], towers["image_width"], **dropouts)


def rename_official(state: Mapping[str, T]) -> dict[str, T]:
    """Put our names in place of Cuberick-Orion/CIRPLANT's.

    Raises:
        ValueError: a name is unknown.
    """
    return rename(state, _OFFICIAL_NAMES, _UNUSED)


_BERT = "imageBert.bert."
_OFFICIAL_NAMES = {
    _BERT: "bert.",
    f"{_BERT}img_embedding.": "image_projection.",
    "normalization_layer.norm_s": "scale",
}
_UNUSED = (f"{_BERT}pooler.",)
