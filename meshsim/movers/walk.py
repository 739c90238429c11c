"""Which cell a point that moves is in, found from the one that it was in before."""

from __future__ import annotations

import numpy as np
import torch

from meshsim.movers.simplices import Array, Indices, Simplices
from meshsim.ops import locate

WALK, OUTSIDE = 30, 1e-9
NEAR = 8  # cells looked at for a point that is in none


class Walk:
    """Finds points of a mesh as they move over it at rest.

    A point goes from cell to cell, each time through the side that it is farthest beyond; one
    that comes to a border so is looked for in all cells. numpy, for of a few hundred points the
    calls cost more than the numbers.

    >>> walk = Walk(Simplices([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0, 1, 2]]))
    >>> walk.find(np.array([[0.5, 0.0], [1.0, 0.0], [0.25, 0.5]]))[1].round(2).tolist()
    [[0.5, 0.0, 0.25], [0.5, 1.0, 0.25], [0.0, 0.0, 0.5]]
    """

    def __init__(self, grid: Simplices):
        self.grid = grid
        n, dim = grid.points.shape
        first = grid.points[grid.cells[:, 0]]
        slopes = grid.gradients.reshape(len(first), -1)  # (C, (D + 1) D)
        self._affine = np.ascontiguousarray(np.concatenate([first, slopes], 1).T)
        self._beyond = _beyond(grid.cells)
        self._home = np.full(n, len(grid.cells))
        np.minimum.at(
            self._home, grid.cells.reshape(-1), np.repeat(np.arange(len(grid.cells)), dim + 1)
        )
        self._home[self._home == len(grid.cells)] = 0
        self._in = self._home

    def rest(self) -> None:
        """Forget where points were seen: the same bits whatever was found before."""
        self._in = self._home

    def find(self, x: Array) -> tuple[Indices, Array]:
        """A cell (N,) around each point of x (N, D), and its shares there (D + 1, N).

        A point outside counts as at the border of the cell that it is least outside of.
        """
        ids = self._in.copy()
        share = self._shares(ids, x)
        rows, now = np.arange(len(x)), share
        for _ in range(WALK):
            out = np.flatnonzero(_least(now) < -OUTSIDE)
            if not len(out):
                break
            there = self._beyond[ids[rows[out]], now[:, out].argmin(0)]
            on = there >= 0
            rows = rows[out[on]]
            ids[rows] = there[on]
            now = self._shares(ids[rows], x[rows])
            share[:, rows] = now
        lost = np.flatnonzero(_least(share) < -OUTSIDE)
        if len(lost):
            lost = self._look(x, ids, share, lost)
        if len(lost):  # rounding, or the middle of a step beyond a curved side
            self._nearest(x, ids, share, lost)
        self._in = ids
        return ids, share

    def _shares(self, ids: Indices, x: Array) -> Array:
        """(D + 1, n) barycentric coordinates of points in cells (n,)."""
        dim = x.shape[1]
        a = self._affine.take(ids, 1)
        way = [x[:, d] - a[d] for d in range(dim)]
        out = a[dim::dim] * way[0]
        for d in range(1, dim):
            out += a[dim + d :: dim] * way[d]
        out[0] += 1.0
        return out

    def _look(self, x: Array, ids: Indices, share: Array, lost: Indices) -> Indices:
        """Look for points in all cells; those that are in none come back."""
        points, cells = torch.from_numpy(self.grid.points), torch.from_numpy(self.grid.cells)
        found, weights = locate(points, cells, torch.from_numpy(x[lost]), OUTSIDE)
        inside = (found >= 0).numpy()
        ids[lost[inside]] = found.numpy()[inside]
        share[:, lost[inside]] = weights.numpy()[inside].T
        return lost[~inside]

    def _nearest(self, x: Array, ids: Indices, share: Array, lost: Indices) -> None:
        from scipy.spatial import cKDTree

        centres = self.grid.points[self.grid.cells].mean(1)
        near = min(NEAR, len(centres))
        _, some = cKDTree(centres).query(x[lost], near)
        at = np.asarray(some).reshape(len(lost), near)
        every = self._shares(at.reshape(-1), np.repeat(x[lost], near, 0))
        every = every.reshape(len(every), len(lost), near)
        best = every.min(0).argmax(1)
        rows = np.arange(len(lost))
        kept = every[:, rows, best].clip(min=0.0)
        ids[lost] = at[rows, best]
        share[:, lost] = kept / kept.sum(0)


def _least(share: Array) -> Array:
    out = np.minimum(share[0], share[1])
    for row in share[2:]:
        out = np.minimum(out, row)
    return out


def _beyond(cells: Indices) -> Indices:
    """(C, D + 1) the cell beyond the side opposite to each corner, −1 outside."""
    k = cells.shape[1]
    sides = np.stack([np.delete(cells, i, 1) for i in range(k)], 1).reshape(-1, k - 1)
    sides = np.sort(sides, 1)
    order = np.lexsort(sides.T)
    same = (sides[order[1:]] == sides[order[:-1]]).all(1)
    out = np.full(len(sides), -1)
    a, b = order[:-1][same], order[1:][same]
    out[a], out[b] = b // k, a // k
    return out.reshape(-1, k)
