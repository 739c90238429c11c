"""Finite elements in torch: the same numbers as in numpy, and their gradients."""

import numpy as np
import pytest
import torch

from meshsim.movers.elements import error, shape_functions, solution
from meshsim.solvers import elliptic
from tests.movers.grids import cube, square


def exact(x):
    return (torch.sin if isinstance(x, torch.Tensor) else np.sin)(2 * x).prod(-1)


@pytest.mark.parametrize("grid", [square(4), cube(2)], ids=["square", "cube"])
def test_values_and_gradients(grid):
    rng = np.random.default_rng(0)
    held = np.zeros(len(grid.points), bool)
    held[grid.boundary.reshape(-1)] = True
    x = torch.from_numpy(grid.points + 0.02 * rng.standard_normal(grid.points.shape))
    cells, rule = torch.from_numpy(grid.cells), elliptic.conical(grid.dim, 3)

    def both(x):
        u = solution(
            x,
            cells,
            torch.from_numpy(held),
            lambda p: (1 + 4 * grid.dim) * exact(p),
            exact,
            1.0,
            rule,
        )
        return u, error(x, cells, u, exact, rule)

    moved = type(grid)(x.numpy(), grid.cells)
    u, gap = both(x)
    same = elliptic.solve(moved, lambda p: (1 + 4 * grid.dim) * exact(p), exact, 1.0, 3)
    assert np.abs(u.numpy() - same).max() < 1e-12
    assert float(gap) == pytest.approx(elliptic.l2_error(moved, same, exact, 3), rel=1e-12)
    size, slope = shape_functions(x, cells)
    assert np.allclose(size.numpy(), moved.measures) and np.allclose(slope, moved.gradients)
    assert torch.autograd.gradcheck(lambda y: both(y)[1], x.requires_grad_(), atol=1e-7)
