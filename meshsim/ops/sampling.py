"""Sampling of points: farthest first."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError
from meshsim.ops.neighbors import check_offsets, check_points

torch.library.define(
    "meshsim::farthest_points",
    "(Tensor points, SymInt n, int start=0, Tensor? batch=None) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _reference(points: Tensor, n: int, start: int = 0, batch: Tensor | None = None) -> Tensor:
    check_points(points)
    offsets = check_offsets(batch, len(points), "batch")
    if n < 0:
        raise InputError(f"`n`: expected >= 0, got {n}")
    x = points.detach().double().cpu().numpy()
    out = []
    for b, (first, last) in enumerate(itertools.pairwise(offsets)):
        size = last - first
        if n > size:
            raise InputError(f"`n`: expected at most the {size} points of batch {b}, got {n}")
        if n and not 0 <= start < size:
            raise InputError(f"`start`: expected 0..{size - 1} (batch {b}), got {start}")
        nearest = np.full(size, np.inf)
        taken = start
        for _ in range(n):
            out.append(first + taken)
            square = np.zeros(size)
            for column in x[first:last].T:
                square += (column - column[taken]) ** 2
            nearest = np.minimum(nearest, square)
            nearest[taken] = -1.0
            taken = int(nearest.argmax())
    return torch.tensor(out, dtype=torch.int64, device=points.device)


def _fake(points: Tensor, n: int, start: int = 0, batch: Tensor | None = None) -> Tensor:
    batches = 1 if batch is None else batch.shape[0] - 1
    return points.new_empty(batches * n, dtype=torch.int64)


torch.library.impl("meshsim::farthest_points", "CompositeExplicitAutograd", _reference)
torch.library.register_fake("meshsim::farthest_points", _fake)


def farthest_points(
    points: Float[Tensor, "N D"], n: int, start: int = 0, batch: Int[Tensor, " B"] | None = None
) -> Int[Tensor, " M"]:
    """Farthest-point sampling: each next point is the one farthest from all taken before.

    i_{k+1} = argmax_i min_{j ≤ k} |x_i − x_{i_j}|, squares in float64 as for `radius`, the
    smallest index of equals, no point twice (Eldar et al., IEEE Trans. Image Process. 6, 1997).

    Arguments:
        points: (N, D) float32 or float64, D = 1..3, finite.
        n: how many points, of each batch.
        start: the first one, counted within its batch.
        batch: (B + 1,) int64 offsets of batches.

    Returns:
        (n,) or (B · n,) int64 indices, in the order in which they are taken.

    Raises:
        InputError: a batch has fewer than `n` points, or none with number `start`.

    >>> farthest_points(torch.tensor([[0.0], [1.0], [5.0], [2.0]]), 3)
    tensor([0, 2, 3])
    """
    return torch.ops.meshsim.farthest_points(points, n, start, batch)
