"""Simple bodies as (points, blocks), wound so that normals point out; and slow oracles."""

import itertools
import math

import numpy as np
import torch

from meshsim.geometry.cells import Cells


def sphere(level: int, radius: float = 1.0) -> tuple[torch.Tensor, list[Cells]]:
    """An icosahedron, each of its triangles cut into four `level` times."""
    g = (1 + 5**0.5) / 2
    corners = [p for a in (-1, 1) for b in (-g, g) for p in ((0, a, b), (a, b, 0), (b, 0, a))]
    x = np.array(corners) / (1 + g * g) ** 0.5
    side = 2 / (1 + g * g) ** 0.5
    faces = [
        f
        for f in itertools.combinations(range(12), 3)
        if all(np.linalg.norm(x[a] - x[b]) < 1.01 * side for a, b in itertools.combinations(f, 2))
    ]
    faces = [f if np.linalg.det(x[list(f)]) > 0 else f[::-1] for f in faces]
    points, triangles = [tuple(p) for p in x], faces
    for _ in range(level):
        middle: dict[tuple[int, int], int] = {}

        def between(a: int, b: int, middle=middle) -> int:
            key = (min(a, b), max(a, b))
            if key not in middle:
                p = np.array(points[a]) + np.array(points[b])
                middle[key] = len(points)
                points.append(tuple(p / np.linalg.norm(p)))
            return middle[key]

        finer = []
        for a, b, c in triangles:
            ab, bc, ca = between(a, b), between(b, c), between(c, a)
            finer += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        triangles = finer
    return radius * torch.tensor(points).double(), [Cells("triangle", torch.tensor(triangles))]


def box(
    sides: tuple[float, float, float], n: int = 1, triangles: bool = False
) -> tuple[torch.Tensor, list[Cells]]:
    """A box about the origin, n × n quads a side, or twice as many triangles."""
    number: dict[tuple[int, ...], int] = {}
    quads = []
    for axis, end in itertools.product(range(3), (0, n)):
        for i, j in itertools.product(range(n), range(n)):
            ring = []
            for u, v in ((i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)):
                at = [0, 0, 0]
                at[axis], at[(axis + 1) % 3], at[(axis + 2) % 3] = end, u, v
                ring.append(number.setdefault(tuple(at), len(number)))
            quads.append(ring if end else ring[::-1])
    points = (torch.tensor(list(number)).double() / n - 0.5) * torch.tensor(sides).double()
    if triangles:
        rows = [t for a, b, c, d in quads for t in ([a, b, c], [a, c, d])]
        return points, [Cells("triangle", torch.tensor(rows))]
    return points, [Cells("quad", torch.tensor(quads))]


def cylinder(n: int, radius: float = 1.0) -> tuple[torch.Tensor, list[Cells]]:
    """Round the z axis, one long: n quads, and two polygons as a second block."""
    ring, _ = circle(n, radius)
    points = torch.cat([torch.nn.functional.pad(ring, (0, 1), value=z) for z in (0.0, 1.0)])
    i = torch.arange(n)
    after = (i + 1) % n
    side = torch.stack([i, after, n + after, n + i], 1)
    ends = Cells("polygon", torch.cat([i.flip(0), n + i]), torch.tensor([0, n, 2 * n]))
    return points, [Cells("quad", side), ends]


def circle(n: int, radius: float = 1.0) -> tuple[torch.Tensor, list[Cells]]:
    """A polygon of n sides in the plane, as lines, counterclockwise."""
    angle = torch.arange(n).double() * 2 * math.pi / n
    i = torch.arange(n)
    return (
        radius * torch.stack([angle.cos(), angle.sin()], 1),
        [Cells("line", torch.stack([i, (i + 1) % n], 1))],
    )


def rotation(dim: int = 3, seed: int = 0) -> torch.Tensor:
    """(D, D) drawn by chance, determinant 1."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator)).Q
    q[0] *= torch.linalg.det(q)
    return q


def spread(n: int, dim: int = 3, size: float = 2.0, seed: int = 0) -> torch.Tensor:
    """(n, D) drawn evenly from a box about the origin."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, dim, dtype=torch.float64, generator=generator) - 0.5) * 2 * size


def all_distances(x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """(M, T) distances to triangles (T, 3, 3), by the regions that the nearest place may lie in."""
    a, b, c = x[:, 0], x[:, 1], x[:, 2]
    out = np.empty((len(q), len(x)))
    for i, p in enumerate(q):
        ab, ac, ap, bp, cp = b - a, c - a, p - a, p - b, p - c
        d1, d2 = (ab * ap).sum(1), (ac * ap).sum(1)
        d3, d4 = (ab * bp).sum(1), (ac * bp).sum(1)
        d5, d6 = (ab * cp).sum(1), (ac * cp).sum(1)
        va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
        with np.errstate(all="ignore"):
            places = [
                ((d1 <= 0) & (d2 <= 0), a),
                ((d3 >= 0) & (d4 <= d3), b),
                ((d6 >= 0) & (d5 <= d6), c),
                ((vc <= 0) & (d1 >= 0) & (d3 <= 0), a + (d1 / (d1 - d3))[:, None] * ab),
                ((vb <= 0) & (d2 >= 0) & (d6 <= 0), a + (d2 / (d2 - d6))[:, None] * ac),
                (
                    (va <= 0) & (d4 >= d3) & (d5 >= d6),
                    b + ((d4 - d3) / ((d4 - d3) + (d5 - d6)))[:, None] * (c - b),
                ),
            ]
            inner = a + (vb[:, None] * ab + vc[:, None] * ac) / (va + vb + vc)[:, None]
        best, left = inner, np.ones(len(x), bool)
        for here, place in places:
            best = np.where((here & left)[:, None], place, best)
            left &= ~here
        out[i] = np.linalg.norm(p - best, axis=1)
    return out


def all_windings(x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """(M,) winding numbers of triangles (T, 3, 3) or segments (T, 2, 2): every angle added up."""
    out = np.empty(len(q))
    for i, p in enumerate(q):
        y = x - p
        if x.shape[2] == 2:
            a, b = y[:, 0], y[:, 1]
            turn = np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1))
            out[i] = math.fsum(turn) / (2 * math.pi)
            continue
        a, b, c = y[:, 0], y[:, 1], y[:, 2]
        la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
        under = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
        over = (a * np.cross(b, c)).sum(1)
        out[i] = math.fsum(np.arctan2(over, under)) / (2 * math.pi)
    return out
