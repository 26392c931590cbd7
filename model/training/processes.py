"""Several processes as one: what `accelerate launch` and `torchrun` start, found by environment.

Alone, everything here does nothing. Knows nothing of what is trained.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of one run, as one of them sees them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine: the number of the GPU

    @staticmethod
    @contextmanager
    def joined(device: str) -> "Iterator[Processes]":
        """Join the processes that a launcher started, for the length of a block.

        Args:
            device: Where the gradients are, "cpu" or "cuda": it decides how they are sent.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size < 2:
            yield Processes()
            return
        joins = not distributed.is_initialized()
        if joins:
            distributed.init_process_group("nccl" if device == "cuda" else "gloo")
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        try:
            yield Processes(distributed.get_rank(), distributed.get_world_size(), local_rank)
        finally:
            if joins:
                distributed.destroy_process_group()

    def mine(self, count: int) -> range:
        """Return which of a step's micro-batches are this process's."""
        return range(self.rank, count, self.size)

    def share(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give every process the parameters of the first."""
        if self.size > 1:
            for parameter in parameters:
                distributed.broadcast(parameter.data, 0)

    def sum_gradients(
        self, parameters: Iterable[torch.nn.Parameter], total: float, weight: float
    ) -> tuple[float, float]:
        """Sum the gradients in place over all processes; return the summed loss and weight."""
        if self.size == 1:
            return total, weight
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None:  # no micro-batch was left for this process
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        sums = torch.tensor([total, weight], dtype=torch.float64, device=flat.device)
        distributed.all_reduce(sums)
        return float(sums[0]), float(sums[1])

    def agree(self, value: float) -> float:
        """Return the first process's value in every process."""
        if self.size == 1:
            return value
        shared = self._number(value)
        distributed.broadcast(shared, 0)
        return float(shared[0])

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            shared = self._number(0.0)
            distributed.all_reduce(shared)  # needs something of each, as a broadcast does not
            float(shared[0])  # on a GPU, only reading it waits

    def _number(self, value: float) -> torch.Tensor:
        """Return a number where the processes can exchange it."""
        device = f"cuda:{self.local_rank}" if distributed.get_backend() == "nccl" else "cpu"
        return torch.tensor([value], dtype=torch.float64, device=device)
