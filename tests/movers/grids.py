"""Small meshes that the tests of movers share."""

import numpy as np

from meshsim.movers import Simplices
from meshsim.movers.simplices import Array
from meshsim.solvers.domains import structured

square = structured


def cube(n: int) -> Simplices:
    """n × n × n cubes of six tetrahedra around a diagonal each (Kuhn)."""
    at = np.linspace(0, 1, n + 1)
    x = np.stack(np.meshgrid(at, at, at, indexing="ij"), -1).reshape(-1, 3)
    steps = np.array([(n + 1) ** 2, n + 1, 1])
    low = (np.indices((n, n, n)).reshape(3, -1).T * steps).sum(1)
    cells = []
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2), (0, 2, 1), (2, 1, 0)):
        path = np.cumsum([0, steps[a], steps[b], steps[c]])
        cells.append(low[:, None] + path)
    return Simplices(x, np.concatenate(cells))


def ring(n: int) -> Simplices:
    """Between circles of radius 1 and 2, n cells out and 8 n around: curved sides."""
    around = 8 * n
    radius = np.linspace(1, 2, n + 1)
    angle = 2 * np.pi * np.arange(around) / around
    x = radius[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    i, j = (v.reshape(-1) for v in np.indices((n, around)))
    a, b = i * around + j, i * around + (j + 1) % around
    c, d = a + around, b + around
    cells = np.concatenate([np.stack([a, c, b], 1), np.stack([c, d, b], 1)])
    return Simplices(x.reshape(-1, 2), cells)


def turned(grid: Simplices, degrees: float) -> Simplices:
    """The mesh turned about the origin (in 3-D about the z axis, then the x axis)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix: Array = np.eye(grid.dim)
    matrix[:2, :2] = [[c, -s], [s, c]]
    if grid.dim == 3:
        matrix = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ matrix
    return Simplices(grid.points @ matrix.T, grid.cells)
