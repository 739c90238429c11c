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
        for i in which:
            # a view of its own where one input may depend on another: that way is not this one's
            x = inputs[i]
            inputs[i] = x.view_as(x) if twice else x.detach().requires_grad_()
        results = compute(*inputs)[: len(grads)]
        wanted = [inputs[i] for i in which if inputs[i].requires_grad]
        found = iter(torch.autograd.grad(results, wanted, grads, create_graph=twice))
        # of what no gradient is asked for it is nobody's: 0
        return tuple(
            next(found) if inputs[i].requires_grad else torch.zeros_like(inputs[i]) for i in which
        )


def again() -> bool:
    """Whether a gradient that is being computed is to be differentiated itself."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()
