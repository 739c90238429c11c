"""Where the points of a boundary may go: along it, and nowhere else."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from meshsim.movers.simplices import Array, Indices, Simplices

FLAT = 1e-9  # sine of the angle between facets of one plane
NEAR = 32  # facets looked at for the closest point


class Sides:
    """The directions in which each point of a mesh may move, and the way back onto the boundary.

    The boundary is cut into sides where it turns by more than `feature` degrees. A point inside
    a side moves in its tangent plane, one on the edge between two sides in space along the edge,
    a corner not at all. On curved sides the step is followed by the closest point of the facets.

    Arguments:
        grid: the mesh at rest.
        feature: degrees; a sharper turn is an edge or a corner.
        fixed: hold every boundary point.

    Attributes:
        directions: (D, N, D) unit vectors at right angles in which each point may move, 0 for none.
        basis: (D N, n) sparse, their columns with component-major rows.
        held: (N,) bool, points that do not move.
        side: (B,) the side of each facet of the boundary.
    """

    def __init__(self, grid: Simplices, feature: float = 15.0, fixed: bool = False):
        self.grid = grid
        facets, dim, n = grid.boundary, grid.dim, len(grid.points)
        normals = grid.boundary_normals
        unit = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        ridges, pairs, lone = _ridges(facets)
        sharp = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(1) < np.cos(np.radians(feature))
        self.side = _connected(pairs[~sharp], len(facets))
        self._creases = np.concatenate([ridges[sharp], lone])
        creased = np.bincount(self._creases.reshape(-1), minlength=n)
        on = np.zeros(n, bool)
        on[facets] = True
        inner = on & (creased == 0) & (not fixed)  # inside a side
        edge, way = np.zeros(n, bool), np.zeros((n, dim))
        if dim == 3 and not fixed:
            edge, way = _straight(grid.points, self._creases, creased, feature)
        mean, turn = _mean_normals(facets, normals, unit, n)
        self.directions = np.zeros((dim, n, dim))
        self.directions[:, ~on] = np.eye(dim)[:, None]
        self.directions[: dim - 1, inner] = _tangents(mean[inner])
        self.directions[0, edge] = way[edge]
        self.held = on & ~inner & ~edge
        self.basis = _columns(self.directions)
        self._curved = np.flatnonzero(inner & (turn > FLAT))
        of = np.zeros(n, np.int64)
        of[facets.reshape(-1)] = np.repeat(self.side, dim)
        self._side_of = of[self._curved]
        self._bent = self._bent_edges(edge) if edge.any() else np.zeros(0, np.int64)

    def _bent_edges(self, edge: np.ndarray) -> Indices:
        """Points on edges between sides that are not straight there."""
        x, pairs = self.grid.points, self._creases
        way = x[pairs[:, 1]] - x[pairs[:, 0]]
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        outer = np.zeros((len(x), 3, 3))
        for k in range(2):
            np.add.at(outer, pairs[:, k], way[:, :, None] * way[:, None, :])
        spread = np.linalg.eigvalsh(outer[edge])[:, :2].sum(1)
        found: Indices = np.flatnonzero(edge)[spread > FLAT**2]
        return found

    def free(self) -> Array:
        """(N, D, D) projections onto the directions in which each point may move."""
        out: Array = np.einsum("knd,kne->nde", self.directions, self.directions)
        return out

    @property
    def bent(self) -> Indices:
        """Points whose way along the boundary is not straight."""
        return np.concatenate([self._curved, self._bent])

    def back(self, points: Array) -> Array:
        """`points` (N, D) with those of curved sides on the closest point of their side at rest."""
        if not len(self._curved) and not len(self._bent):
            return points
        out = points.copy()
        rest = self.grid.points
        for side in np.unique(self._side_of):
            of = self._curved[self._side_of == side]
            facets = rest[self.grid.boundary[self.side == side]]  # (B, D, D)
            out[of] = closest(out[of], facets)
        if len(self._bent):
            out[self._bent] = closest(out[self._bent], rest[self._creases])
        return out


def _connected(pairs: Indices, count: int) -> Indices:
    """(count,) numbers of the components that pairs (n, 2) join."""
    graph = csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    numbers: Indices = connected_components(graph, directed=False)[1].astype(np.int64)
    return numbers


def _mean_normals(facets: Indices, normals: Array, unit: Array, n: int) -> tuple[Array, Array]:
    """Unit normals of points (N, D), by size of facets, and the largest gap to one of them."""
    dim, at = facets.shape[1], facets.reshape(-1)
    total = np.zeros((n, dim))
    np.add.at(total, at, np.repeat(normals, dim, 0))
    length = np.linalg.norm(total, axis=1, keepdims=True)
    mean: Array = total / np.where(length > 0, length, 1.0)
    gap = np.zeros(n)
    np.maximum.at(gap, at, np.linalg.norm(np.repeat(unit, dim, 0) - mean[at], axis=1))
    return mean, gap


def _columns(directions: Array) -> csr_matrix:
    """(D N, n) the vectors (D, N, D) that are not 0 as columns, component-major rows."""
    _, n, dim = directions.shape
    vectors = directions.reshape(-1, dim)
    moving = np.flatnonzero(vectors.any(1))
    column, axis = np.nonzero(vectors[moving])
    rows = axis * n + (moving % n)[column]
    return csr_matrix((vectors[moving][column, axis], (rows, column)), shape=(dim * n, len(moving)))


def _ridges(facets: Indices) -> tuple[Indices, Indices, Indices]:
    """Where facets (B, D) meet: ridges (n, D - 1) of two facets, the pairs (n, 2), other ridges."""
    dim = facets.shape[1]
    local = [[0], [1]] if dim == 2 else [[0, 1], [1, 2], [2, 0]]
    listed = np.sort(np.concatenate([facets[:, ends] for ends in local]), 1)
    owner = np.tile(np.arange(len(facets)), len(local))
    unique, ids, counts = np.unique(listed, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(ids.reshape(-1), kind="stable")
    start = np.cumsum(counts) - counts
    two = counts == 2
    pairs = np.stack([owner[order[start[two]]], owner[order[start[two] + 1]]], 1)
    return unique[two], pairs, unique[~two]


def _tangents(normal: Array) -> list[Array]:
    """Unit vectors across unit normals (n, D), D - 1 of them; along the axes where those are."""
    n = np.where(np.abs(normal) < 1e-12, 0.0, normal)
    n = n / np.linalg.norm(n, axis=1, keepdims=True)
    if n.shape[1] == 2:
        return [np.stack([-n[:, 1], n[:, 0]], 1)]
    least = np.eye(3)[np.abs(n).argmin(1)]
    first = least - (least * n).sum(1, keepdims=True) * n
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return [first, np.cross(n, first)]


def _straight(
    x: Array, creases: Indices, count: Indices, feature: float
) -> tuple[np.ndarray, Array]:
    """Which points lie inside an edge that goes on without a corner, and its direction there."""
    here = creases.reshape(-1)
    other = creases[:, ::-1].reshape(-1)
    order = np.argsort(here, kind="stable")
    two = np.flatnonzero(count == 2)
    start = np.searchsorted(here[order], two)
    before, after = (other[order[start + k]] for k in range(2))
    ways = [x[before] - x[two], x[after] - x[two]]
    unit = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in ways]
    # |a + b| of two unit vectors that point apart is 2 sin(turn / 2).
    goes_on = np.linalg.norm(unit[0] + unit[1], axis=1) <= 2 * np.sin(np.radians(feature) / 2)
    chord = x[after] - x[before]
    chord = chord / np.linalg.norm(chord, axis=1, keepdims=True)
    inside = np.zeros(len(x), bool)
    inside[two] = goes_on
    direction = np.zeros_like(x)
    direction[two] = np.where(np.abs(chord) < 1e-12, 0.0, chord)
    return inside, direction


def closest(points: Array, facets: Array) -> Array:
    """The points of facets (B, k, D), segments or triangles, closest to `points` (n, D).

    Looked for among the `NEAR` facets whose middles are nearest.
    """
    near = min(NEAR, len(facets))
    _, ids = cKDTree(facets.mean(1)).query(points, near)
    f = facets[ids.reshape(len(points), near)]  # (n, near, k, D)
    p = points[:, None, :]
    ends = [(0, 1)] if facets.shape[1] == 2 else [(0, 1), (1, 2), (2, 0)]
    found = [_on_segment(p, f[:, :, a], f[:, :, b]) for a, b in ends]
    if facets.shape[1] == 3:
        found.append(_on_plane(p, f))
    at = np.concatenate(found, 1)  # (n, candidates, D)
    best = ((at - p) ** 2).sum(2).argmin(1)
    out: Array = at[np.arange(len(points)), best]
    return out


def _on_segment(p: Array, a: Array, b: Array) -> Array:
    way = b - a
    t = ((p - a) * way).sum(2) / (way * way).sum(2)
    out: Array = a + np.clip(t, 0.0, 1.0)[:, :, None] * way
    return out


def _on_plane(p: Array, f: Array) -> Array:
    """The foot in each triangle's plane where it lies inside it, else infinitely far."""
    u, v, w = f[:, :, 1] - f[:, :, 0], f[:, :, 2] - f[:, :, 0], p - f[:, :, 0]
    uu, uv, vv = (u * u).sum(2), (u * v).sum(2), (v * v).sum(2)
    wu, wv = (w * u).sum(2), (w * v).sum(2)
    det = uu * vv - uv * uv
    s, t = (vv * wu - uv * wv) / det, (uu * wv - uv * wu) / det
    inside = (s >= 0) & (t >= 0) & (s + t <= 1)
    foot = f[:, :, 0] + s[:, :, None] * u + t[:, :, None] * v
    out: Array = np.where(inside[:, :, None], foot, np.inf)
    return out
