"""CIRPLANT's network: BERT reads the caption, then the reference as one more token.

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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad as pad_zeros
from transformers import BertConfig, BertModel, BertTokenizer

from cirbench.benchmark.checkpoints import fill_network
from cirbench.methods.supervised.official import T, rename
from cirbench.methods.supervised.vocabulary import TokenBatch, pad

BOX = 6
"""Zeros after a feature."""
LENGTH = 40
"""Tokens of a text at most, [CLS] and [SEP] among them."""
SCALE = 4.0
"""Of all vectors in the loss, at first; it is learned."""
_MASKED = -10_000.0


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


def make_tokenizer(words: Sequence[str]) -> BertTokenizer:
    """Make uncased WordPiece over a vocabulary in the order of its ids."""
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


def encode_batch(
    tokenizer: BertTokenizer, texts: Sequence[str], length: int = LENGTH
) -> TokenBatch:
    """Encode texts with [CLS] and [SEP], cut to `length` tokens, padded to the longest."""
    encoded = tokenizer(list(texts), truncation=True, max_length=length)
    return pad(encoded["input_ids"])


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
