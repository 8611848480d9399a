"""Context-I2W: Mapping Images to Context-dependent Words for Accurate Zero-Shot Composed Retrieval.

Tang, Yu, Gai, Zhuang, Xiong, Hu, Wu. AAAI 2024, arXiv 2309.16137. Inference follows the released
code (Pter61/context-i2w) and its checkpoints, in which "state_dict_img2text" is the network.

The pseudo-word of a picture depends on what is asked of it: a network N sees all tokens X of the
picture and the embedding of the query's own prompt, in which a marker stands for the picture.

    w = N(X, T("a photo of * , {caption}" with * := marker))        n(x) = x / |x|
    q = n(T("a photo of * , {caption}" with * := w))

The marker is the last word of CLIP's vocabulary, "jekyll" (token 49405), whose row of the table the
released tokenizer gives it.

Known deviations: that tokenizer writes the word "jekyll" itself as two tokens, where a caption has
it; here it is one. The released evaluation takes the marker's place from the first prompt of a
batch; here each prompt has its own. Training is not built: the released loss can't be followed
exactly from what is known of it.
"""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Checkpoint, Method, Queries
from cirbench.benchmark.checkpoints import check_widths, find_network_weights, loading_network
from cirbench.benchmark.embedding.pictures import find_token_tower
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.methods.context_i2w.network import ContextNetwork
from cirbench.methods.pic2word.method import RELEASED_KEY, describe_carried_clip
from cirbench.methods.prompts import average_orders

MARKER = "jekyll"
"""The last word of CLIP's vocabulary."""


class ContextI2W(Method):
    """A prompt whose placeholder is a word of the reference picture, chosen by the prompt."""

    name: ClassVar[str] = "context-i2w"
    needs_checkpoint: ClassVar[bool] = True
    reads_pictures: ClassVar[bool] = True

    def __init__(self, network: ContextNetwork, marker: Tensor, trained_on: str) -> None:
        self.network = network.eval()
        self.marker = marker
        self.trained_on = trained_on

    @classmethod
    def build(cls, *, backbone: Backbone, checkpoint: Checkpoint | None) -> Self:
        if checkpoint is None:
            raise CorruptData(f"{cls.name} needs a checkpoint")
        tower = find_token_tower(backbone)
        with loading_network(checkpoint, "Context-I2W network"):
            network = ContextNetwork.from_weights(find_network_weights(checkpoint, RELEASED_KEY))
        vision, word = network.widths
        check_widths(checkpoint, (word, word), backbone)
        if vision != tower.vision_width:
            raise CorruptData(
                f"{checkpoint.path} maps tokens of pictures of width {vision}; those of "
                f"{backbone.name} have {tower.vision_width}: it was trained for another backbone"
            )
        trained_on = checkpoint.provenance.get("trained_on", "CC3M")
        method = cls(network.to(backbone.device), tower.embed_word(MARKER), trained_on)
        method.remarks = describe_carried_clip(checkpoint, backbone)
        return method

    def compose(self, queries: Queries) -> Tensor:
        tokens = queries.reference_tokens
        markers = self.marker.expand(len(tokens), -1)

        def encode(family: str) -> Tensor:
            asked = queries.prompt_features(markers, family)
            return queries.prompt_features(self.network(tokens, asked), family)

        return average_orders(queries, encode, "pseudo-word")
