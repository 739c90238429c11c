"""Weights, gradients and what belongs to them divided among the processes (FSDP2)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from meshsim.nn.anchor import AnchorBlock
from meshsim.train.world import World

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Shards:
    """A model of whose every weight each process keeps some rows.

    Fully sharded data parallel training (Zhao et al., "PyTorch FSDP", VLDB 2023), by
    `torch.distributed.fsdp.fully_shard`: weights are whole only while a block, or what lies outside
    all blocks, is passed; gradients arrive as the rows of their mean. The rows are plain tensors
    here, so that optimisers and averages need not know of each other's. Which weights have a
    gradient must be the same on all processes, as it is where the step decides it.

    Arguments:
        model: whose parameters are divided, in place; whole on all processes, with the same
            values.
        world: of more than one process.
        device: where it is to be.
    """

    def __init__(self, model: nn.Module, world: World, device: torch.device):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
        from torch.distributed.tensor import DTensor

        self.model, self.world = model, world
        mesh = init_device_mesh(device.type, (world.size,))
        self.numbers = [p for p in model.parameters() if p.dim() == 0]  # nothing to divide
        for p in self.numbers:
            p.data = p.data.to(device)
        for block in _blocks(model):
            fully_shard(block, mesh=mesh)
            for method in ("together", "answered"):
                register_fsdp_forward_method(block, method)
        # nothing writes into what a block gives, so that views may be among it
        warnings.filterwarnings("ignore", ".*FSDP2-wrapped module .* returned a view")
        fully_shard(model, mesh=mesh, ignored_params=set(self.numbers))
        register_fsdp_forward_method(model, "training_loss")
        self.held: dict[str, nn.Parameter] = {}
        self._divided: dict[Tensor, DTensor] = {}
        for name, p in model.named_parameters():
            self.held[name] = p
            if isinstance(p, DTensor):
                self.held[name] = nn.Parameter(p.to_local().detach())  # in the same memory
                self._divided[self.held[name]] = p

    def reduced(self, loss: Tensor) -> Tensor:
        """Give the weights' rows their gradients after a backward pass; the mean loss."""
        for weight, p in self._divided.items():
            grad: Any = p.grad
            weight.grad = None if grad is None else grad.to_local()
            p.grad = None
        return self.world.average(loss, self.numbers)

    def norm(self) -> Tensor:
        """The norm of all gradients."""
        own = nn.utils.get_total_norm([w.grad for w in self._divided if w.grad is not None])
        rest = nn.utils.get_total_norm([p.grad for p in self.numbers if p.grad is not None])
        return (self.world.total(own.square()) + rest.to(own).square()).sqrt()

    def shape(self, weight: Tensor) -> torch.Size:
        """Of the whole of a weight."""
        return self._divided[weight].shape if weight in self._divided else weight.shape

    def whole(self, weight: Tensor, rows: Tensor) -> Tensor:
        """All rows of what is divided as a weight is; every process must ask for it."""
        from torch.distributed.tensor import DTensor

        if weight not in self._divided:
            return rows
        p = self._divided[weight]
        part = DTensor.from_local(
            rows.detach(),
            p.device_mesh,
            p.placements,
            run_check=False,
            shape=p.shape,
            stride=p.stride(),
        )
        return part.full_tensor()

    def own(self, weight: Tensor, whole: Tensor) -> Tensor:
        """The rows that this process keeps of what is divided as a weight is."""
        if weight not in self._divided:
            return whole.to(weight.device)
        size, rank = self.world.size, self.world.rank
        step = math.ceil(len(whole) / size)  # as torch.chunk has it, the last may have none
        return whole[rank * step : (rank + 1) * step].to(weight.device)

    def state(self, parts: Sequence[Tensor], keep: bool) -> dict[str, Tensor]:
        """The model's `state_dict` with whole tensors; every process must ask for it.

        Arguments:
            parts: rows that take the place of the weights'.
            keep: whether this process wants it; {} if not.
        """
        out = {}
        for (name, weight), part in zip(self.held.items(), parts, strict=True):
            tensor = self.whole(weight, part)
            if keep:
                out[name] = tensor
        return out | {name: t.clone() for name, t in self._buffers().items()} if keep else {}

    @torch.no_grad()
    def restore(self, parts: Sequence[Tensor], state: Mapping[str, Tensor]) -> None:
        """Take rows, and buffers, from whole tensors.

        Raises:
            KeyError, RuntimeError: they do not fit.
        """
        for (name, weight), part in zip(self.held.items(), parts, strict=True):
            if state[name].shape != self.shape(weight):
                raise RuntimeError(f"{name} has the shape {tuple(state[name].shape)}")
            part.copy_(self.own(weight, state[name]))
        for name, buffer in self._buffers().items():
            buffer.copy_(state[name])

    def _buffers(self) -> dict[str, Tensor]:
        return {n: t for n, t in self.model.state_dict().items() if n not in self.held}


def hollow(model: nn.Module) -> None:
    """Let go of all parameters, until `load_state_dict(…, assign=True)` gives others."""
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                empty = torch.empty_like(p, device="meta")
                module._parameters[name] = nn.Parameter(empty, requires_grad=False)


def _blocks(model: nn.Module) -> list[AnchorBlock]:
    """What is gathered by itself; nothing where derivatives are taken within a pass."""
    branches = [b for m in model.modules() for b in getattr(m, "branches", {}).values()]
    if any(branch.curl for branch in branches):
        return []
    return [m for m in model.modules() if isinstance(m, AnchorBlock)]
