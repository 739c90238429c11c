"""The two fluxes: their divergence, their sides, and what they do at corners that turn inwards."""

import numpy as np
import pytest
import torch

from meshsim.movers.boundary import Sides
from meshsim.movers.flux import Elastic, Potential
from tests.movers.grids import cube, square, turned

GRIDS = {"square": square(12), "turned": turned(square(12), 30.0), "cube": cube(5)}


def density(grid):
    """Smooth, of mean 1 over the mesh."""
    x = grid.points - grid.points.mean(0)
    rho = 1 + 0.5 * np.exp(-4 * (x**2).sum(1))
    return torch.from_numpy(rho * grid.lumped.sum() / (rho * grid.lumped).sum())


def divergence(grid, u):
    """(C,) ∇·u of the cells."""
    return np.einsum("ckd,ckd->c", grid.gradients, u[grid.cells])


def both(grid):
    sides = Sides(grid)
    return {"potential": Potential(grid, sides), "elastic": Elastic(grid, sides, 50.0)}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("kind", ["potential", "elastic"])
def test_equal_density_carries_nothing_and_sides_are_kept(grid, kind):
    flux = both(grid)[kind]
    assert flux(torch.ones(len(grid.points)).double()).abs().max() < 1e-13
    u = flux(density(grid)).numpy()
    assert np.abs(u).max() > 1e-3
    normal = np.eye(grid.dim) - Sides(grid).free()
    assert np.abs(np.einsum("nde,ne->nd", normal, u)).max() < 1e-14


@pytest.mark.parametrize("make", [square, lambda n: turned(square(n), 30.0)])
def test_the_divergence_comes_to_what_is_asked(make):
    """To first order for the potential flux; for a stiff body until its own compliance shows."""
    off = {"potential": [], "elastic": []}
    for n in (6, 12, 24):
        grid = make(n)
        rho = density(grid)
        want = 1 - rho.numpy()[grid.cells].mean(1)
        for kind, flux in both(grid).items():
            gap = divergence(grid, flux(rho).numpy()) - want
            off[kind].append(np.sqrt((grid.measures * gap**2).sum()))
    rates = np.log2(np.array(off["potential"][:-1]) / off["potential"][1:])
    assert rates[1] > 0.95 and rates[1] > rates[0]  # towards one
    assert off["elastic"][0] > 1.5 * off["elastic"][1] > 2.0 * off["elastic"][2]


def test_a_stiffer_body_swells_nearer_to_what_is_asked():
    grid = square(16)
    rho, sides = density(grid), Sides(square(16))
    want = 1 - rho.numpy()[grid.cells].mean(1)
    off = [
        np.abs(divergence(grid, Elastic(grid, sides, bulk)(rho).numpy()) - want).mean()
        for bulk in (0.5, 2.0, 8.0, 32.0)
    ]
    assert off[0] > off[1] > off[2] > off[3]


@pytest.mark.parametrize(("make", "sizes"), [(square, (8, 16, 32)), (cube, (6, 12))])
def test_a_strain_that_fits_a_displacement_is_followed_to_second_order(make, sizes):
    """E = ε(w) and ρ = 1 − ∇·w of a smooth w that keeps the sides: nothing else is as low."""
    off = []
    for n in sizes:
        grid = make(n)
        x, dim = grid.points, grid.dim
        s, c = np.sin(np.pi * x), np.cos(np.pi * x)
        bump = s.prod(1)
        way = np.array([0.3, -0.2, 0.1])[:dim]
        rise = np.stack([np.pi * c[:, d] * np.delete(s, d, 1).prod(1) for d in range(dim)], 1)
        rate = way[None, :, None] * rise[:, None, :]  # ∂_j w_i
        strain = (rate + rate.transpose(0, 2, 1)) / 2
        pairs = [strain[:, i, j] for i in range(dim) for j in range(i, dim)]
        rho = 1 - np.trace(rate, axis1=1, axis2=2)
        flux = Elastic(grid, Sides(grid), 2.0)
        u = flux(torch.from_numpy(rho), torch.from_numpy(np.stack(pairs, 1))).numpy()
        squares = grid.lumped @ np.stack([u - bump[:, None] * way, bump[:, None] * way]) ** 2
        off.append(np.sqrt(np.divide(*squares.sum(1))))
    rates = np.log2(np.array(off[:-1]) / off[1:])
    assert rates[-1] > 1.6, (off, rates)
    assert off[-1] < 0.06


def test_inward_corners_bound_the_elastic_flux_only():
    """Refining an L lets the potential's speed beside the corner grow, not the elastic one's."""
    pytest.importorskip("gmsh")
    from meshsim.solvers.domains import L_SHAPE, polygon

    found = {"potential": [], "elastic": []}
    for size in (0.08, 0.02):
        grid = polygon(L_SHAPE, size)
        rho = 1 + 2 * np.exp(-20 * ((grid.points - [0.7, 0.3]) ** 2).sum(1))
        rho = torch.from_numpy(rho * grid.lumped.sum() / (rho * grid.lumped).sum())
        near = np.linalg.norm(grid.points - 0.5, axis=1) < 1.5 * size
        for kind, flux in both(grid).items():
            found[kind].append(float(np.linalg.norm(flux(rho).numpy()[near], axis=1).max()))
    assert found["potential"][1] > 1.2 * found["potential"][0]
    assert found["elastic"][1] < 0.8 * found["elastic"][0]


@pytest.mark.parametrize("kind", ["potential", "elastic"])
def test_gradients(kind):
    grid = square(3)
    rho = density(grid).requires_grad_()
    assert torch.autograd.gradcheck(both(grid)[kind], rho)
