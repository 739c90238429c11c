"""Domains that movers are judged on: meshed as asked, and moved on without a tangle."""

import numpy as np
import pytest

pytest.importorskip("gmsh")

from meshsim.movers.fields import Gaussians
from meshsim.movers.learned import Density, LearnedMover
from meshsim.solvers.domains import L_SHAPE, SQUARE, box, polygon, random_polygon


def test_areas_are_those_of_the_outlines():
    assert polygon(SQUARE, 0.2).measures.sum() == pytest.approx(1.0)
    assert polygon(L_SHAPE, 0.1).measures.sum() == pytest.approx(0.75)
    hole = [(0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6)]
    assert polygon(SQUARE, 0.1, [hole]).measures.sum() == pytest.approx(0.96)
    assert box(0.3).measures.sum() == pytest.approx(1.0)


def test_random_polygons_with_holes_are_moved_without_a_tangle():
    """Thirty of them, an untrained mover, 100:1 contrast: all corners positive, area kept."""
    holes, shares, mover = 0, [], LearnedMover(Density(power=1.0), feature=1e-3)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        outline, cut = random_polygon(rng)
        holes += len(cut)
        grid = polygon(outline, 0.05, cut)
        field = Gaussians.draw(rng)
        moved = mover.move(grid, field.monitor(grid.points, 99.0))
        assert mover.prepare(grid).guard.tangled(moved.points) == 0
        shares.append(moved.share)
        assert grid.signed(moved.points).sum() == pytest.approx(grid.measures.sum(), rel=1e-12)
    assert holes > 10 and np.mean(shares) > 0.8


def test_an_l_is_moved_for_the_better_by_the_elastic_flux_untrained():
    """Ten fields: the error falls in the mean, where the potential flux makes it grow."""
    from meshsim.movers import Simplices
    from meshsim.solvers.elliptic import l2_error, solve

    grid, gain = polygon(L_SHAPE, 0.06), {8.0: [], None: []}
    for seed in range(10):
        u = Gaussians.draw(np.random.default_rng(seed))

        def error(points, u=u):
            moved = Simplices(points, grid.cells)
            return l2_error(moved, solve(moved, lambda x: u(x) - u.laplacian(x), u, 1.0, 3), u, 3)

        for bulk, rows in gain.items():
            moved = LearnedMover(Density(), bulk=bulk).move(grid, u.monitor(grid.points))
            rows.append(1 - error(moved.points) / error(grid.points))
    assert np.mean(gain[8.0]) > 0.05 > np.mean(gain[None])
