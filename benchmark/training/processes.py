"""The processes that share one training, and what they exchange."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from cirbench.benchmark.runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The rank of this process, and how many there are."""

    rank: int = 0
    count: int = 1

    def choose_rows(self, batch_size: int) -> slice:
        """Choose this process's rows of a batch.

        Raises:
            UsageError: the batch can't be split evenly.
        """
        if batch_size % self.count:
            raise UsageError(
                f"the batch size must be a multiple of the {self.count} processes, got {batch_size}"
            )
        share = batch_size // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, rows: Tensor) -> Tensor:
        """Gather (b, C) of each process → (B, C), in the order of ranks."""
        if self.count == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.count)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def sum_gradients(self, network: nn.Module, *, divided: bool) -> None:
        """Sum the gradients of a network over processes, in place."""
        if self.count == 1:
            return
        for parameter in network.parameters():
            assert parameter.grad is not None  # every weight is in every text
            dist.all_reduce(parameter.grad)
            if divided:
                parameter.grad /= self.count


def join_processes(device: str) -> Processes:
    """Join the processes that torchrun or Slurm's srun started; one where neither did."""
    environment = os.environ
    count = int(environment.get("WORLD_SIZE") or environment.get("SLURM_NTASKS") or 1)
    if count == 1:
        return Processes()
    if "MASTER_ADDR" not in environment:
        raise UsageError(
            f"{count} processes need MASTER_ADDR and MASTER_PORT to connect; start them with "
            "torchrun, or export both in the job's script"
        )
    rank = int(environment.get("RANK") or environment.get("SLURM_PROCID") or 0)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if not dist.is_initialized():  # by the training of another seed
        dist.init_process_group(backend, rank=rank, world_size=count)
    return Processes(rank=rank, count=count)


def choose_own_device(device: str, processes: Processes) -> str:
    """Choose the GPU of this process where several share a machine."""
    if device != "cuda" or processes.count == 1 or torch.cuda.device_count() == 1:
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK') or os.environ.get('SLURM_LOCALID') or 0}"
