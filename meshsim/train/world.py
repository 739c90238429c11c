"""Several processes that train one model: who is who, and the mean of their gradients."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from meshsim.check import InputError, WorkError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes that torchrun started, or this one alone.

    Arguments:
        rank: of this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls, device: str) -> World:
        """Join the others; the environment says how many there are (torchrun sets it).

        Arguments:
            device: of `TrainConfig`; processes on CUDA talk by NCCL, others by gloo.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not distributed.is_initialized():
            on_cuda = torch.cuda.is_available() and device not in ("cpu", "meta")
            if on_cuda:  # "cuda" then means a device of its own for each
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            distributed.init_process_group("nccl" if on_cuda else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def by_first(self, work: Callable[[], T]) -> T:
        """What `work` gives on the first process, on all of them; its errors too.

        Raises:
            InputError, WorkError: as `work` did.
        """
        if self.size == 1:
            return work()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box = [work(), None]
            except (InputError, WorkError) as error:
                box = [None, error]
        distributed.broadcast_object_list(box, 0)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def check(self, batches: Sequence[int]) -> None:
        """Raise `InputError` unless every batch can be shared out equally."""
        for batch in batches:
            if batch % self.size:
                raise InputError(
                    f"train.batch: expected a multiple of the {self.size} processes, got {batch}"
                )

    def total(self, value: Tensor) -> Tensor:
        """The sum of the processes' values, the same bits on all."""
        if self.size > 1:
            value = value.detach().clone()
            distributed.all_reduce(value)
        return value

    def average(self, loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Replace gradients by their mean over the processes; the mean loss.

        Parameters without a gradient on any process stay without; the sum is in the order of the
        processes, so that all have the same bits.
        """
        if self.size == 1:
            return loss
        if not parameters:
            return self.total(loss) / self.size
        here = torch.tensor([p.grad is not None for p in parameters], device=loss.device)
        there = here.to(torch.int32)
        distributed.all_reduce(there)
        parts = [loss.detach().reshape(1)]
        used = [p for p, n in zip(parameters, there.tolist(), strict=True) if n]
        parts += [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in used
        ]
        flat = torch.cat(parts)
        distributed.all_reduce(flat)
        flat /= self.size
        at = 1
        for p in used:
            p.grad = flat[at : at + p.numel()].view_as(p).clone()
            at += p.numel()
        return flat[0]
