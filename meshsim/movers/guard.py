"""Steps of a mesh's points that turn no corner of a cell.

A step from a mesh whose corners are all positive is taken whole only if they all stay positive and
no facet of the boundary turns round, so that points of a side keep their order and the map is one
to one as a whole. Where they do not, the points concerned go half as far, again and again; after
`TRIES` every point goes at most `SAFE` of the least width of the simplices around it. That cannot
fail: points that each go less than half the width w of a simplex leave it on the side of itself
that it was, since on the way to being flat they would all have to lie on one line (plane), within
w/2 of where they were, and w is the least distance between two such that hold them. For facets the
same holds in their line (plane).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from meshsim.check import InputError
from meshsim.movers.simplices import Array, Indices, volumes

TRIES = 6
SAFE = 0.45  # below one half


class Guard:
    """Keeps simplices positive and the facets of the boundary from turning round.

    Arguments:
        corners: (K, D + 1), the simplices.
        facets: (B, D), of the boundary.
        onto: brings points (N, D) of curved sides back on them.
    """

    def __init__(self, corners: Indices, facets: Indices, onto: Callable[[Array], Array]):
        self.corners, self.facets, self._onto = corners, facets, onto
        self._corner = [np.ascontiguousarray(c) for c in corners.T]
        self._facet = [np.ascontiguousarray(c) for c in facets.T]

    def tangled(self, x: Array) -> int:
        """How many corners are flat or inside out with the points at x (N, D)."""
        return int((volumes(x, self._corner) <= 0).sum())

    def wrong(self, x: Array, there: Array) -> Indices:
        """Points of corners that are not positive, and of facets turned round since x."""
        flat = volumes(there, self._corner) <= 0
        turned = self._turned(x, there)
        if not (flat.any() or turned.any()):
            return np.zeros(0, np.int64)
        return np.concatenate([self.corners[flat].reshape(-1), self.facets[turned].reshape(-1)])

    def safe(self, x: Array, goal: Array) -> Array:
        """As far from x towards goal, (N, D), as leaves every corner positive; see the module.

        Raises:
            InputError: a corner at x is not positive already.
        """
        way = goal - x
        share = np.ones(len(x))
        for _ in range(TRIES):
            there = self._onto(x + share[:, None] * way)
            wrong = self.wrong(x, there)
            if not len(wrong):
                return there
            hurt = np.zeros(len(x), bool)
            hurt[wrong] = True
            share = np.where(hurt, 0.5 * share, share)
        if self.tangled(x):
            raise InputError("`x`: expected a mesh whose corners are positive")
        reach = SAFE * self._room(x)  # (N,)
        for _ in range(2):
            length = np.linalg.norm(way, axis=1)
            way = way * np.minimum(reach / np.maximum(length, 1e-300), 1.0)[:, None]
            there = self._onto(x + way)
            way = there - x
            # On a bent side the way back may lengthen a step: then that point stays.
            way = np.where((np.linalg.norm(way, axis=1) > reach)[:, None], 0.0, way)
        there = x + way
        if len(self.wrong(x, there)):  # rounding, in cells of no width
            return x
        return there

    def _room(self, x: Array) -> Array:
        """(N,) the least width of the simplices around each point."""
        out = np.full(len(x), np.inf)
        for ids in (self.corners, self.facets):
            np.minimum.at(out, ids.reshape(-1), np.repeat(widths(x, ids), ids.shape[1]))
        return out

    def _turned(self, x: Array, there: Array) -> np.ndarray:
        """(B,) facets that point away from where they did."""
        a, b = (_normals(at, self._facet) for at in (x, there))
        out: np.ndarray = (a * b).sum(1) <= 0
        return out


def _normals(x: Array, ids: list[Indices]) -> Array:
    """Vectors (B, D) that turn with facets: along edges in the plane, normals in space."""
    first = x[ids[0]]
    if len(ids) == 2:
        out: Array = x[ids[1]] - first
        return out
    return np.cross(x[ids[1]] - first, x[ids[2]] - first)


def widths(x: Array, ids: Indices) -> Array:
    """The least distance between two parallel lines (planes) that hold a simplex between them.

    The smallest height of a triangle; of a tetrahedron also the distances of opposite edges. Of
    facets (K, D), edges in the plane and triangles in space, within their line or plane.
    """
    p = x[ids]  # (K, k, D)
    if ids.shape[1] == 2:
        return np.linalg.norm(p[:, 1] - p[:, 0], axis=1)
    if ids.shape[1] > x.shape[1]:
        size = np.abs(volumes(x, list(ids.T)))
    else:
        size = np.linalg.norm(_normals(x, list(ids.T)), axis=1)
    if ids.shape[1] == 3:
        sides = [np.linalg.norm(p[:, a] - p[:, b], axis=1) for a, b in ((0, 1), (1, 2), (2, 0))]
        out: Array = size / np.max(sides, 0)
        return out
    spans = []
    for a, b, c in combinations(range(4), 3):
        spans.append(np.linalg.norm(np.cross(p[:, b] - p[:, a], p[:, c] - p[:, a]), axis=1))
    for a, b, c, d in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)):
        spans.append(np.linalg.norm(np.cross(p[:, b] - p[:, a], p[:, d] - p[:, c]), axis=1))
    out = size / np.max(spans, 0)
    return out
