"""Conservative transfer: its laws on every cell type, its order, and what it refuses."""

import numpy as np
import pytest
import torch

from meshsim.check import InputError, WorkError
from meshsim.mesh import Mesh
from meshsim.movers.meshes import corners, with_points
from meshsim.movers.transfer import conserve
from tests.graph.grids import brick, grid
from tests.helpers import MESHES

SOLID = ["channel", "mixed_solid", "polygons", "polyhedra", "warped"]


def shifted(mesh, size=0.03, seed=0):
    """Points moved a little, those of the boundary too."""
    g = torch.Generator().manual_seed(seed)
    return mesh.points + size * torch.randn(mesh.points.shape, generator=g, dtype=torch.float64)


def bent(mesh, size=0.04):
    """A smooth map of [0, 1]^D to itself that keeps every side."""
    x = mesh.points
    wave = torch.sin(torch.pi * x).prod(1, keepdim=True)
    return x + size * wave * torch.cos(torch.pi * x.flip(1) + 0.3)


def unit(mesh):
    return mesh.replace(points=mesh.points / mesh.points.amax(0))


def averages(mesh, f):
    """Cell averages of a function to fourth order: quads and hexahedra cut in 4^D parts."""
    side = (torch.arange(4, dtype=torch.float64) + 0.5) / 4
    at = torch.cartesian_prod(*[side] * mesh.dim).reshape(-1, mesh.dim)
    nodes = mesh.points[mesh.cells[0].nodes]  # (C, 2^D, D), counter-clockwise
    order = [0, 3, 1, 2] if mesh.dim == 2 else [0, 4, 3, 7, 1, 5, 2, 6]
    x = nodes[:, order].reshape(len(nodes), *[2] * mesh.dim, mesh.dim)
    out, weight = 0.0, 0.0
    for p in at:
        y, jac = x, []
        corners = x
        for d in range(mesh.dim):
            rest = x
            for e in range(mesh.dim):
                rest = (
                    rest[:, 1] - rest[:, 0]
                    if e == d
                    else (1 - p[e]) * rest[:, 0] + p[e] * rest[:, 1]
                )
            jac.append(rest)
            corners = (1 - p[d]) * corners[:, 0] + p[d] * corners[:, 1]
        y = corners
        w = torch.linalg.det(torch.stack(jac, 1)).abs()
        out, weight = out + w * f(y), weight + w
    return out / weight


@pytest.mark.parametrize("name", SOLID)
def test_nothing_is_lost_and_constants_stay(name):
    mesh = MESHES[name]
    points = shifted(mesh)
    after = mesh.replace(points=points)
    assert torch.equal(after.cell_measures > 0, mesh.cell_measures > 0)
    ones = conserve(mesh, torch.full((mesh.n_cells,), 3.7, dtype=torch.float64), points)
    torch.testing.assert_close(ones, torch.full_like(ones, 3.7), rtol=1e-12, atol=0)
    held = mesh.points.clone()  # the boundary held: the sum over cells cannot change
    inner = torch.ones(mesh.n_points, dtype=torch.bool)
    faces = mesh.faces
    outer = faces.neighbour < 0
    inner[faces.nodes[torch.repeat_interleave(outer, faces.offsets.diff())]] = False
    held[inner] = points[inner]
    q = torch.randn(mesh.n_cells, 3, generator=torch.Generator().manual_seed(1)).double()
    before = (mesh.cell_measures.double()[:, None] * q).sum(0)
    new = mesh.replace(points=held).cell_measures.double()
    total = (new[:, None] * conserve(mesh, q, held)).sum(0)
    torch.testing.assert_close(total, before, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("make", [lambda: grid(14, 10), lambda: brick(6, 5, 4)], ids=["2-D", "3-D"])
def test_no_value_leaves_the_range(make):
    mesh = unit(make())
    steps = (mesh.cell_centres[:, 0] > 0.4).double()
    found = conserve(mesh, steps, bent(mesh, 0.1))
    assert float(found.min()) >= -1e-15 and float(found.max()) <= 1 + 1e-13
    assert float(((found > 0.01) & (found < 0.99)).double().mean()) > 0  # and it has moved


@pytest.mark.parametrize("kind", ["quad", "triangle"])
def test_no_value_leaves_the_range_where_cells_are_squeezed(kind):
    mesh = unit(grid(16, 12, kind))
    q = torch.rand(mesh.n_cells, 2, generator=torch.Generator().manual_seed(2)).double()
    squeezed = mesh.points.clone()
    squeezed[:, 0] **= 4  # the first column to a four-thousandth of its width
    found = conserve(mesh, q, squeezed)
    new = mesh.replace(points=squeezed).cell_measures.double()[:, None]
    total = (mesh.cell_measures.double()[:, None] * q).sum(0)
    torch.testing.assert_close((new * found).sum(0), total, rtol=1e-11, atol=0)
    assert float(found.min()) >= q.min() - 1e-9 and float(found.max()) <= q.max() + 1e-9


@pytest.mark.parametrize(("dim", "sides"), [(2, (16, 32, 64)), (3, (6, 12))])
def test_smooth_fields_are_carried_to_second_order_in_the_mean(dim, sides):
    def f(x):
        return torch.sin(2 * x[:, 0] + 1) * torch.cos(3 * x[:, 1]) + x[:, -1] ** 2

    errors = []
    for n in sides:
        mesh = unit(grid(n, n) if dim == 2 else brick(n, n, n))
        points = bent(mesh)
        found = conserve(mesh, averages(mesh, f), points)
        exact = averages(mesh.replace(points=points), f)
        errors.append(float((found - exact).abs().mean()))
    rates = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert rates.min() > 1.8, errors


def test_fields_of_a_moved_mesh_are_conserved_where_asked():
    mesh = unit(grid(12, 9, "triangle"))
    mesh = mesh.with_fields({"p": mesh.points[:, 0]}, {"q": mesh.cell_centres[:, 1].exp()})
    of = corners(mesh)
    moved = with_points(mesh, of, bent(mesh)[torch.from_numpy(of.used)].numpy(), "conserve")
    before = (mesh.cell_measures * mesh.cell_fields["q"]).sum()
    after = (moved.cell_measures * moved.cell_fields["q"]).sum()
    assert float(after) == pytest.approx(float(before), rel=1e-13)
    torch.testing.assert_close(moved.point_fields["p"], moved.points[:, 0], rtol=0, atol=1e-12)


def test_what_cannot_be_carried_is_named():
    mesh = grid(3, 2)
    q = torch.ones(mesh.n_cells).double()
    with pytest.raises(InputError, match="`values`: expected 6 rows, got \\(5,\\)"):
        conserve(mesh, q[:5], mesh.points)
    with pytest.raises(InputError, match="`points`: expected \\(12, 2\\)"):
        conserve(mesh, q, mesh.points[:5])
    with pytest.raises(InputError, match="values"):
        conserve(mesh, q * torch.nan, mesh.points)
    surface = MESHES["cube_surface"]
    with pytest.raises(InputError, match="3-D space, got 2-D"):
        conserve(surface, torch.ones(surface.n_cells).double(), surface.points)
    flat = mesh.points.clone()
    flat[:, 1] *= -1
    with pytest.raises(WorkError, match="loses its measure"):
        conserve(mesh, q, flat)


def test_other_types_of_numbers():
    mesh = grid(4, 3)
    q = torch.rand(mesh.n_cells)
    assert torch.equal(conserve(mesh, q, mesh.points), q)
    with pytest.raises(InputError, match="floating-point numbers"):
        conserve(mesh, torch.arange(mesh.n_cells), mesh.points)
    counted = mesh.with_fields({}, {"n": torch.arange(mesh.n_cells), "q": q})
    of = corners(counted)
    moved = with_points(counted, of, mesh.points[torch.from_numpy(of.used)].numpy(), "conserve")
    assert torch.equal(moved.cell_fields["n"], counted.cell_fields["n"])
    gap = counted.with_fields({}, {"q": torch.full((mesh.n_cells,), torch.nan)})
    with pytest.raises(InputError, match="field q"):
        with_points(gap, corners(gap), mesh.points.numpy(), "conserve")


def test_a_cell_without_measure_is_named():
    flat = Mesh(
        [[0.0, 0], [1, 0], [1, 1], [0, 1], [2, 0], [2, 0], [1, 1]],
        {"triangle": [[0, 1, 2], [0, 2, 3], [1, 4, 5]]},
    )
    with pytest.raises(InputError, match="cell 2 has no measure"):
        conserve(flat, torch.ones(3), flat.points)
