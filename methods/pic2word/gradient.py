"""The gradient of Pic2Word's contrastive loss, exactly, over processes and in pieces.

This is GradCache (Gao et al., RepL4NLP 2021), with exact dropout masks.

The loss of a batch of B pictures needs all B texts at once, but the gradient with respect to the
texts, dL/dT, can be had from their values alone. So each process computes its own b texts (in
pieces, keeping nothing), all gather, each computes the same loss and dL/dT, and sends its own rows
back through its own texts, piece by piece. Summed over processes this is the gradient of one
process with the whole batch (decided so here; the released code's plain gather gives it divided by
the number of processes, which AdamW hardly notices: `released_gather`).

Dropout's masks are drawn for the whole batch from the step's own seed, so that they do not depend
on how it is split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import dropout

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.runtime.torch_state import seeded
from cirbench.benchmark.training.processes import Processes
from cirbench.methods.pic2word.method import MappingNetwork, contrastive_loss


def draw_dropout_masks(network: MappingNetwork, rows: int, seed: int) -> list[Tensor]:
    """One (rows, width) mask a block, the numbers that nn.Dropout would draw after this seed."""
    with seeded(seed):
        return [dropout(torch.ones(rows, width), network.dropout) for width in network.block_widths]


@dataclass(frozen=True, kw_only=True)
class GradientStep:
    """The gradient of one step, computed by one process.

    Attributes:
        images: (b, C) this process's embeddings.
        masks: (B, width) a block, of the whole batch.
        piece: how many texts go through the tower at once; None is all.
    """

    network: MappingNetwork
    backbone: Backbone
    prompt: str
    images: Tensor
    masks: Sequence[Tensor]
    processes: Processes
    piece: int | None = None
    released_gather: bool = False

    def backward(self, scaled: Callable[[Tensor], Tensor] = lambda loss: loss) -> Tensor:
        """Add the gradient of the scaled loss to the network's; give the whole batch's loss."""
        whole = self.processes.count == 1 and (self.piece or len(self.images)) >= len(self.images)
        if whole:
            loss = self._compute_loss(self.images, self._encode_texts(slice(None)))
            scaled(loss).backward()  # type: ignore[no-untyped-call]  # untyped in torch
            return loss.detach()
        # First pass: the values of all texts, without a graph.
        with torch.no_grad():
            own = torch.cat([self._encode_texts(part) for part in self._split()])
        texts = self.processes.gather(own).requires_grad_()
        loss = self._compute_loss(self.processes.gather(self.images), texts)
        # The loss's gradient stops at the texts; their graph is built again below, piece by piece.
        (gradient,) = torch.autograd.grad(scaled(loss), texts)
        gradient = gradient[self.processes.choose_rows(len(texts))]
        for part in self._split():
            self._encode_texts(part).backward(gradient[part])  # type: ignore[no-untyped-call]  # the same
        self.processes.sum_gradients(self.network, divided=self.released_gather)
        return loss.detach()

    def _split(self) -> Iterator[slice]:
        size = self.piece or len(self.images)
        for start in range(0, len(self.images), size):
            yield slice(start, min(start + size, len(self.images)))

    def _encode_texts(self, part: slice) -> Tensor:
        """(piece, C): the prompt with these pictures' pseudo-words."""
        images = self.images[part]
        own = self.processes.choose_rows(len(self.masks[0]) if self.masks else len(self.images))
        masks = [mask[own][part].to(images.device) for mask in self.masks]
        words = self.network(images, masks)
        return self.backbone.encode_prompts([self.prompt] * len(images), words)

    def _compute_loss(self, images: Tensor, texts: Tensor) -> Tensor:
        return contrastive_loss(images, texts, self.backbone.logit_scale)
