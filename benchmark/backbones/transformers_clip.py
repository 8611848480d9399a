"""Backbones of the transformers library: `hf:ORG/NAME` of the hub, or `hf:/FOLDER`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cirbench.benchmark.backbones.base import TorchBackbone
from cirbench.benchmark.errors import MissingData
from cirbench.benchmark.preprocess import ImageSpec


def load(name: str, *, device: str, precision: str) -> TorchBackbone:
    """A transformers CLIP with its own tokenizer.

    Pictures are preprocessed by the protocol's preprocess, not by the model's image processor,
    whose crop differs by a pixel for some sizes.
    """
    from transformers import AutoTokenizer, CLIPModel

    source = name.removeprefix("hf:")
    try:
        model = CLIPModel.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except OSError as error:
        raise MissingData(
            f"the weights of {name} are not on this machine and can't be fetched ({error}); fetch "
            f"them where there is a network, with HF_HOME on a disk that both machines see"
        ) from error
    return from_model(name, model, tokenizer, device=device, precision=precision)


def from_model(
    name: str, model: Any, tokenizer: Any, *, device: str = "cpu", precision: str = "fp32"
) -> TorchBackbone:
    """Wraps a `transformers.CLIPModel`."""

    def image_tower(pixels: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)  # type: ignore[no-any-return]  # model is Any

    def text_tower(ids: Tensor) -> Tensor:
        return model.text_projection(model.text_model(input_ids=ids).pooler_output)  # type: ignore[no-any-return]  # model is Any

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts))["input_ids"]  # type: ignore[no-any-return]  # tokenizer is Any

    return TorchBackbone(
        name=name,
        model=model,
        image_tower=image_tower,
        text_tower=text_tower,
        token_embedding=model.text_model.embeddings.token_embedding,
        tokenize=tokenize,
        pad_id=tokenizer.pad_token_id,
        context_length=model.config.text_config.max_position_embeddings,
        embedding_width=model.config.projection_dim,
        image_spec=ImageSpec(size=model.config.vision_config.image_size),
        logit_scale=float(model.logit_scale.detach().exp()),
        device=torch.device(device),
        precision=precision,
    )
