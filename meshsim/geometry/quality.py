"""What makes cells and points unfit for use: turned inside out, flat, double, alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.geometry.cells import Cells
from meshsim.geometry.measure import cell_measures, incidence, lift, signed_measures


def inverted(points: Float[Tensor, "N D"], blocks: Sequence[Cells]) -> Int[Tensor, "n"]:
    """Cells wound against the majority of their block: turned inside out, or listed carelessly.

    Programs disagree about which way is right (all of a file's tetrahedra may have negative
    volume, and be sound), so a block is measured by itself. Surfaces in 3-D, lines and polyhedra
    have no sign.

    Returns:
        (n,) int64 cell numbers, rising.

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> cells = Cells("triangle", torch.tensor([[0, 1, 2], [0, 3, 2], [0, 1, 3]]))
    >>> inverted(points, [cells])
    tensor([1])
    """
    found = [torch.zeros(0, dtype=torch.bool, device=points.device)]
    for block in blocks:
        negative = signed_measures(points, [block]) < 0
        found.append(~negative if 2 * int(negative.sum()) > len(block) else negative)
    return torch.cat(found).nonzero().squeeze(1)


def degenerate(
    points: Float[Tensor, "N D"], blocks: Sequence[Cells], tolerance: float = 1e-9
) -> Int[Tensor, "n"]:
    """Cells of no size: measure at most `tolerance` × (diagonal of the cell's box) ** dimension.

    Returns:
        (n,) int64 cell numbers, rising.
    """
    size = cell_measures(points.double(), blocks)
    cell, point = incidence(blocks)
    x = lift(points)[point]
    where = cell[:, None].expand(-1, 3)
    low = x.new_full((len(size), 3), torch.inf).scatter_reduce(0, where, x, "amin")
    high = x.new_full((len(size), 3), -torch.inf).scatter_reduce(0, where, x, "amax")
    # A cell without points has the box inf..-inf.
    diagonal = (high - low).clamp(min=0.0).norm(dim=1)
    dim = blocks[0].dim if blocks else 0
    flat = size <= tolerance * diagonal**dim if dim else torch.zeros_like(size, dtype=torch.bool)
    return flat.nonzero().squeeze(1)


def duplicate_points(points: Float[Tensor, "N D"]) -> Int[Tensor, "n"]:
    """Points at exactly the place of an earlier one.

    Returns:
        (n,) int64 point numbers, rising.

    >>> duplicate_points(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    tensor([2])
    """
    order = torch.arange(len(points), device=points.device)
    for column in reversed((points + 0.0).unbind(1)):  # −0 and 0 are one place
        order = order[column[order].sort(stable=True).indices]
    x = points[order]
    again = torch.zeros_like(order, dtype=torch.bool)
    again[1:] = (x[1:] == x[:-1]).all(1)
    return order[again].sort().values


def unused_points(blocks: Sequence[Cells], n_points: int) -> Int[Tensor, "n"]:
    """Points of no cell.

    Returns:
        (n,) int64 point numbers, rising.

    >>> unused_points([Cells("line", torch.tensor([[0, 2]]))], 4)
    tensor([1, 3])
    """
    used = torch.zeros(n_points, dtype=torch.bool)
    for block in blocks:
        used = used.to(block.nodes.device)
        used[block.nodes] = True
    return (~used).nonzero().squeeze(1)
