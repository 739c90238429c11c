"""A surface or curve in a tree of boxes, for whoever asks about places near it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError, check_finite, check_shape
from meshsim.geometry.cells import Cells
from meshsim.geometry.pieces import Pieces, pieces
from meshsim.ops import morton_order

LEAF, FAN, TOP = 2, 4, 64  # pieces in a box of the tree, boxes in a box, boxes in the whole
PAIRS = 1 << 20  # of queries and boxes at once: where there are more, fewer queries

Test = Callable[[Tensor, Tensor], Tensor]  # rows (P, k, F), queries (P,) → (P, F) bool


class Surface:
    """A surface or curve made ready: its pieces in a tree.

    The pieces are halved again and again across the direction in which their middles spread most.
    The tree is made on the CPU, so that it is the same everywhere, and used where the points are.

    Arguments:
        points: (N, D) float, D = 2 or 3.
        blocks: lines for D = 2, triangles, quads and polygons for D = 3.

    Raises:
        InputError: no cells, cells of another dimension, points that are not finite.
    """

    def __init__(self, points: Float[Tensor, "N D"], blocks: Sequence[Cells]):
        self.pieces: Pieces = pieces(points, blocks)
        self.dim, self.device = int(points.shape[1]), points.device
        if len(self.pieces.nodes) == 0:
            raise InputError("`blocks`: expected cells to measure to, got none")
        corners = self.pieces.points[self.pieces.nodes].cpu()  # (T, D, D), double precision
        check_finite(corners, "points")
        order = halved(corners.mean(1))
        self.order = order.to(self.device)  # the pieces as they lie in the tree
        self.place = order.argsort().to(self.device)  # of each piece in the tree
        self.corners = corners[order].to(self.device)  # as they are wound
        self._derived: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.order)

    def once(self, name: str, derive: Callable[[Tensor], Any]) -> Any:
        """What follows from the corners as they lie in the tree, derived once, on the CPU."""
        if name not in self._derived:
            found = derive(self.corners.cpu())
            moved = [t.to(self.device) for t in found]
            self._derived[name] = moved
        return self._derived[name]

    def tables(self, name: str, rows: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        """Rows (boxes, k) of each level, by corners and box of each piece, ready for `walk`."""
        return self.once(
            name, lambda corners: _families([rows(corners, box) for box in levels(len(corners))])
        )

    def prepare(self, queries: Float[Tensor, "M D"]) -> tuple[Tensor, Tensor]:
        """Queries in double precision, and an order in which neighbours come together.

        Raises:
            InputError: queries of another dimension, or not finite.
        """
        check_shape(queries, (None, self.dim), "queries")
        check_finite(queries, "queries")
        q = queries.detach().to(self.device).double()
        return q, morton_order(q)

    def members(self, query: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (query, place of a piece) for pairs (query, box of the last level)."""
        place = (box[:, None] * LEAF + torch.arange(LEAF, device=box.device)).reshape(-1)
        query = query.repeat_interleave(LEAF)
        if len(self) % LEAF == 0:
            return query, place
        real = place < len(self)
        return query[real], place[real]


def halved(x: Float[Tensor, "T D"]) -> Int[Tensor, " T"]:
    """The order that halves points again and again, whole boxes of LEAF · 2^k first.

    >>> halved(torch.tensor([[0.0, 0], [9.0, 0], [1.0, 0], [8.0, 0]])).view(2, 2).sort().values
    tensor([[0, 2],
            [1, 3]])
    """
    n = len(x)
    order, size = torch.arange(n), LEAF
    while size < n:
        size *= 2
    while size > LEAF:
        part = torch.arange(n) // size
        d, own = axes(x[order], part)
        by = (d * own[part, -1]).sum(1).argsort(stable=True)
        order = order[by[part[by].argsort(stable=True)]]
        size //= 2
    return order


def axes(x: Float[Tensor, "n D"], part: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Places (n, D) about the mean of their part, and (parts, D, D) principal axes as rows."""
    count, dim = torch.bincount(part), x.shape[1]
    mean = x.new_zeros(len(count), dim).index_add(0, part, x) / count[:, None]
    d = x - mean[part]
    spread = (d[:, :, None] * d[:, None]).reshape(-1, dim * dim)
    total = x.new_zeros(len(count), dim * dim).index_add(0, part, spread)
    return d, torch.linalg.eigh(total.reshape(-1, dim, dim)).eigenvectors.mT


def extremes(x: Float[Tensor, "n D"], part: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Least and largest coordinates (parts, D); parts rise to the last."""
    where = part[:, None].expand_as(x)
    none = x.new_full((int(part[-1]) + 1, x.shape[1]), torch.inf)
    return none.scatter_reduce(0, where, x, "amin"), (-none).scatter_reduce(0, where, x, "amax")


def levels(n: int) -> list[Tensor]:
    """(T,) which box each piece lies in, for every level, the largest boxes first."""
    out, size = [torch.arange(n) // LEAF], LEAF
    while -(-n // size) > TOP:
        size *= FAN
        out.append(torch.arange(n) // size)
    return out[::-1]


def _families(rows: list[Tensor]) -> list[Tensor]:
    """Rows (n, k) of each level as (parents, k, children); of a missing child NaN: it fails."""
    out = [rows[0].T[None]]
    for above, own in itertools.pairwise(rows):
        missing = own.new_full((len(above) * FAN - len(own), own.shape[1]), torch.nan)
        table = torch.cat([own, missing]).reshape(len(above), FAN, -1)
        out.append(table.mT.contiguous())
    return out


def walk(tables: list[Tensor], n: int, test: Test) -> tuple[Tensor, Tensor] | None:
    """Pairs (query, box of the last level) that pass a test on all levels; None: too many."""
    query = torch.arange(n, device=tables[0].device)
    box = torch.zeros_like(query)
    for i, table in enumerate(tables):
        rows = table if i == 0 else table.index_select(0, box)
        row, child = test(rows, query).nonzero(as_tuple=True)
        query, box = query.index_select(0, row), box.index_select(0, row) * FAN + child
        if len(query) * FAN > PAIRS and n > 1:
            return None
    return query, box
