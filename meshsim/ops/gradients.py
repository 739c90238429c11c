"""Gradients of an operator through its reference, for those that compute their insides anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def through(
    compute: Callable[..., tuple[Tensor, ...]],
    arguments: Sequence[Any],
    which: Sequence[int],
    grads: Sequence[Tensor],
    twice: bool,
) -> tuple[Tensor, ...]:
    """Gradients of `compute(*arguments)`, run again.

    Arguments:
        compute: the operator out of torch's own operations.
        arguments: its arguments.
        which: positions of those to find gradients of.
        grads: gradients of its first results.
        twice: whether the gradients will be differentiated themselves.
    """
    with torch.enable_grad():
        inputs = list(arguments)
        if not twice:
            for i in which:
                inputs[i] = inputs[i].detach().requires_grad_()
        results = compute(*inputs)[: len(grads)]
        return torch.autograd.grad(results, [inputs[i] for i in which], grads, create_graph=twice)


def again() -> bool:
    """Whether a gradient that is being computed is to be differentiated itself."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()
