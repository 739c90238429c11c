"""What is lost by one cell is won by its neighbour: sums over faces telescope, cells close."""

import pytest
import torch

from tests.helpers import DTYPES, MESHES, SOLID

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
FLAT = [name for name in SOLID if name != "warped"]


def per_cell(mesh, values):
    """Sum over a cell's faces, with a minus where it is the neighbour."""
    faces = mesh.faces
    n = faces.n_internal
    out = values.new_zeros(mesh.n_cells, *values.shape[1:])
    return out.index_add(0, faces.owner, values).index_add(0, faces.neighbour[:n], -values[:n])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in MESHES if n not in ("vertices", "fins", "junction")])
def test_fluxes_telescope(name, dtype):
    mesh = MESHES[name].to(dtype=dtype)
    flux = torch.randn(len(mesh.faces), 3, dtype=dtype, generator=torch.Generator().manual_seed(1))
    inside = per_cell(mesh, flux).sum(0)
    outside = flux[mesh.faces.neighbour < 0].sum(0)
    assert ((inside - outside).abs() <= TOLERANCE[dtype] * flux.abs().sum(0)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SOLID)
def test_cells_close(name, dtype):
    mesh = MESHES[name].to(dtype=dtype)
    area = mesh.faces.area
    size = per_cell(mesh, area.norm(dim=1).double()).abs().max()
    assert per_cell(mesh, area).abs().max() <= TOLERANCE[dtype] * size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("far", [0.0, 1000.0])
@pytest.mark.parametrize("name", ["mixed_solid", "warped", "polyhedra", "channel"])
def test_cells_close_wherever_the_mesh_lies(name, far, dtype):
    """Closedness holds of the mesh as stored: rounding its points must not open it."""
    mesh = MESHES[name].to(dtype=dtype)
    mesh = mesh.replace(points=mesh.points + far)
    assert per_cell(mesh, mesh.faces.area).abs().max() <= 6 * TOLERANCE[dtype]


@pytest.mark.parametrize("name", [n for n in SOLID if n != "tangled"])
def test_volume_is_the_flux_of_position(name):
    """Σ V = 1/D ∮ x·dS, also where faces are warped."""
    mesh = MESHES[name]
    outside = mesh.faces.neighbour < 0
    flux = (mesh.faces.area * mesh.faces.centre)[outside].sum() / mesh.dim
    torch.testing.assert_close(mesh.cell_measures.sum(), flux, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", [n for n in FLAT if n != "tangled"])
def test_gauss_gradient_of_a_linear_field_is_exact(name):
    """1/V Σ_f S_f φ(x_f) = ∇φ in every cell with flat faces."""
    mesh = MESHES[name]
    slope = torch.tensor([2.0, -3.0, 0.7], dtype=torch.float64)[: mesh.dim]
    value = mesh.faces.centre @ slope + 5.0  # (F,)
    gradient = per_cell(mesh, mesh.faces.area * value[:, None]) / mesh.cell_measures[:, None]
    torch.testing.assert_close(gradient, slope.expand_as(gradient), rtol=1e-11, atol=1e-11)


def test_area_vectors_point_from_owner_to_neighbour():
    for name in SOLID:
        if name in ("tangled", "polygons"):  # not convex
            continue
        mesh, faces = MESHES[name], MESHES[name].faces
        out = faces.centre - mesh.cell_centres[faces.owner]
        assert ((out * faces.area).sum(1) > 0).all(), name
        n = faces.n_internal
        ahead = mesh.cell_centres[faces.neighbour[:n]] - faces.centre[:n]
        assert ((ahead * faces.area[:n]).sum(1) > 0).all(), name


def test_a_flat_surface_in_space_closes_in_its_plane():
    mesh = MESHES["lifted"]
    assert per_cell(mesh, mesh.faces.area).abs().max() < 1e-13
    flat = MESHES["channel"].faces.area
    torch.testing.assert_close(mesh.faces.area.norm(dim=1), flat.norm(dim=1))
    torch.testing.assert_close(mesh.faces.area @ mesh.faces.area.T, flat @ flat.T)
