"""Orders of points and nodes that put neighbours side by side."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import check_index
from meshsim.ops.neighbors import check_points
from meshsim.ops.segment import check_rowptr
from meshsim.rows import by_group

torch.library.define(
    "meshsim::morton_order", "(Tensor points) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
torch.library.define(
    "meshsim::rcm_order",
    "(Tensor rowptr, Tensor indices) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _morton(points: Tensor) -> Tensor:
    check_points(points)
    x = points.detach().double().cpu().numpy()
    n, dim = x.shape
    if n == 0:
        return torch.zeros(0, dtype=torch.int64, device=points.device)
    bits = 62 // dim
    low = x.min(0)
    side = float((x.max(0) - low).max())
    t = (x - low) / side if side > 0 else np.zeros_like(x)
    cell = np.minimum(np.floor(t * 2.0**bits), 2.0**bits - 1.0).astype(np.int64)
    key = cell[:, 0].copy() if dim == 1 else np.zeros(n, dtype=np.int64)
    for b in range(bits if dim > 1 else 0):
        for d in range(dim):
            key |= (cell[:, d] >> b & 1) << (b * dim + dim - 1 - d)
    return torch.from_numpy(key.argsort(kind="stable")).to(points.device)


class _Levels:
    """Breadth-first levels of a graph in CSR, neighbours by (degree, number)."""

    def __init__(self, rowptr: list[int], indices: list[int]):
        self.rowptr, self.indices = rowptr, indices
        self.placed: set[int] = set()

    def by_degree(self, i: int) -> tuple[int, int]:
        return self.rowptr[i + 1] - self.rowptr[i], i

    def of(self, first: int) -> list[list[int]]:
        seen, levels = {first}, [[first]]
        while levels[-1]:
            level = []
            for i in levels[-1]:
                row = self.indices[self.rowptr[i] : self.rowptr[i + 1]]
                fresh = {j for j in row if j not in seen and j not in self.placed}
                seen |= fresh
                level += sorted(fresh, key=self.by_degree)
            levels.append(level)
        return levels[:-1]

    def far_end(self, first: int) -> int:
        """A node with nobody far behind it (George and Liu)."""
        levels = self.of(first)
        while True:
            end = min(levels[-1], key=self.by_degree)
            more = self.of(end)
            if len(more) <= len(levels):
                return first
            first, levels = end, more


def _rcm(rowptr: Tensor, indices: Tensor) -> Tensor:
    if rowptr.is_cuda:  # one node after another: no work for a GPU, the CPU's kernel is there
        return torch.ops.meshsim.rcm_order(rowptr.cpu(), indices.cpu()).to(rowptr.device)
    check_rowptr(rowptr, len(indices))
    n = len(rowptr) - 1
    check_index(indices, n, "indices", "nodes")
    levels = _Levels(rowptr.tolist(), indices.tolist())
    order: list[int] = []
    for first in sorted(range(n), key=levels.by_degree):
        if first not in levels.placed:
            found = [i for level in levels.of(levels.far_end(first)) for i in level]
            levels.placed.update(found)
            order += found
    return torch.tensor(order[::-1], dtype=torch.int64, device=rowptr.device)


def _fake_morton(points: Tensor) -> Tensor:
    return points.new_empty(points.shape[0], dtype=torch.int64)


def _fake_rcm(rowptr: Tensor, indices: Tensor) -> Tensor:
    return rowptr.new_empty(rowptr.shape[0] - 1)


for _name, _reference, _fake in (
    ("morton_order", _morton, _fake_morton),
    ("rcm_order", _rcm, _fake_rcm),
):
    torch.library.impl(f"meshsim::{_name}", "CompositeExplicitAutograd", _reference)
    torch.library.register_fake(f"meshsim::{_name}", _fake)


def morton_order(points: Float[Tensor, "N D"]) -> Int[Tensor, " N"]:
    """The order of points along Morton's curve (G. M. Morton, IBM, 1966).

    The bounding cube is cut into 2^b cells a side, b = ⌊62 / D⌋; points of one cell keep their
    order.

    Arguments:
        points: (N, D) float32 or float64, D = 1..3, finite.

    Returns:
        (N,) int64: `points[order]` follows the curve.

    >>> morton_order(torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    tensor([1, 3, 2, 0])
    """
    return torch.ops.meshsim.morton_order(points)


def rcm_order(edge_index: Int[Tensor, "2 E"], n: int) -> Int[Tensor, " n"]:
    """The reverse Cuthill–McKee order of a graph: small bandwidth.

    Each part starts at an end that George and Liu's search finds from its node of lowest degree
    (ACM Trans. Math. Softw. 5, 1979); then breadth first, neighbours by degree, then by number.

    Arguments:
        edge_index: (2, E) int64, each edge both ways.
        n: number of nodes.

    Returns:
        (n,) int64: the old number of each new node.

    >>> rcm_order(torch.tensor([[0, 3, 3, 1, 1, 2], [3, 0, 1, 3, 2, 1]]), 4)
    tensor([2, 1, 3, 0])
    """
    check_index(edge_index.T, n, "edge_index", "nodes")
    order, rowptr = by_group(edge_index[0], n)
    return torch.ops.meshsim.rcm_order(rowptr, edge_index[1][order])
