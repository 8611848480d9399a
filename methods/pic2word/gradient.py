"""The gradient of Pic2Word's contrastive loss, exactly, over processes and in pieces.

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

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.functional import dropout

from cirbench.benchmark.api.values import Backbone
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.methods.pic2word.method import MappingNetwork, contrastive_loss


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Which of how many processes this one is."""

    rank: int = 0
    count: int = 1

    def own(self, batch_size: int) -> slice:
        """This process's rows of a batch.

        Raises:
            UsageError: the batch can't be split evenly.
        """
        if batch_size % self.count:
            raise UsageError(f"a batch of {batch_size} is not split evenly over {self.count}")
        share = batch_size // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def gathered(self, rows: Tensor) -> Tensor:
        """(b, C) of each process → (B, C), in the order of ranks."""
        if self.count == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.count)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def sum_gradients(self, network: MappingNetwork, *, divided: bool) -> None:
        """Over processes, in place."""
        if self.count == 1:
            return
        for parameter in network.parameters():
            assert parameter.grad is not None  # every weight is in every text
            dist.all_reduce(parameter.grad)
            if divided:
                parameter.grad /= self.count


def join_processes(device: str) -> Processes:
    """As torchrun or Slurm's srun says; one process where neither does."""
    environment = os.environ
    count = int(environment.get("WORLD_SIZE") or environment.get("SLURM_NTASKS") or 1)
    if count == 1:
        return Processes()
    if "MASTER_ADDR" not in environment:
        raise UsageError(
            f"{count} processes, but no MASTER_ADDR and MASTER_PORT to meet at; start them with "
            f"torchrun, or export both in the job's script"
        )
    rank = int(environment.get("RANK") or environment.get("SLURM_PROCID") or 0)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=count)
    return Processes(rank=rank, count=count)


def own_device(device: str, processes: Processes) -> str:
    """The GPU of this process, where several share a machine; Slurm may show each only its own."""
    if device != "cuda" or processes.count == 1 or torch.cuda.device_count() == 1:
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK') or os.environ.get('SLURM_LOCALID') or 0}"


def dropout_masks(network: MappingNetwork, rows: int, seed: int) -> list[Tensor]:
    """One (rows, width) mask a block, the numbers that nn.Dropout would draw after this seed."""
    torch.manual_seed(seed)
    return [dropout(torch.ones(rows, width), network.dropout) for width in network.block_widths]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of one process.

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
        """Leaves the gradient of the scaled loss in the network; gives the whole batch's loss."""
        whole = self.processes.count == 1 and (self.piece or len(self.images)) >= len(self.images)
        if whole:
            loss = self._loss(self.images, self._texts(slice(None)))
            scaled(loss).backward()  # type: ignore[no-untyped-call]  # untyped in torch
            return loss.detach()
        with torch.no_grad():
            own = torch.cat([self._texts(part) for part in self._pieces()])
        texts = self.processes.gathered(own).requires_grad_()
        loss = self._loss(self.processes.gathered(self.images), texts)
        (gradient,) = torch.autograd.grad(scaled(loss), texts)
        gradient = gradient[self.processes.own(len(texts))]
        for part in self._pieces():
            self._texts(part).backward(gradient[part])  # type: ignore[no-untyped-call]  # the same
        self.processes.sum_gradients(self.network, divided=self.released_gather)
        return loss.detach()

    def _pieces(self) -> Iterator[slice]:
        size = self.piece or len(self.images)
        for start in range(0, len(self.images), size):
            yield slice(start, min(start + size, len(self.images)))

    def _texts(self, part: slice) -> Tensor:
        """(piece, C): the prompt with these pictures' pseudo-words."""
        images = self.images[part]
        own = self.processes.own(len(self.masks[0]) if self.masks else len(self.images))
        masks = [mask[own][part].to(images.device) for mask in self.masks]
        words = self.network(images, masks)
        return self.backbone.encode_prompts([self.prompt] * len(images), words)

    def _loss(self, images: Tensor, texts: Tensor) -> Tensor:
        return contrastive_loss(images, texts, self.backbone.logit_scale)
