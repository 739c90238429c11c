"""Meshes of every cell type as simplices to move, and back."""

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.movers import MongeAmpere, Simplices, shock
from meshsim.movers.meshes import corners, point_values, with_points
from meshsim.movers.simplices import measures
from meshsim.movers.split import simplices
from tests.helpers import MESHES, with_fields
from tests.movers.grids import cube, square

STRAIGHT = ["channel", "mixed_solid", "carelessly_wound", "isolated"]


@pytest.mark.parametrize("name", STRAIGHT)
def test_the_pieces_of_cells_fill_them_and_fit_together(name):
    mesh = MESHES[name]
    grid = corners(mesh).grid  # refuses pieces that overlap, facets of more than two
    assert grid.measures.sum() == pytest.approx(float(mesh.cell_measures.sum()), rel=1e-12)
    outside = np.linalg.norm(grid.boundary_normals, axis=1).sum()
    faces = mesh.faces
    alone = faces.neighbour < 0
    assert outside == pytest.approx(float(faces.area[alone].norm(dim=1).sum()), rel=1e-12)


def test_every_corner_of_sound_cells_is_positive():
    of = corners(MESHES["mixed_solid"])
    assert (measures(of.grid.points, of.corners) > 0).all()
    assert of.tangled(of.grid.points) == 0
    assert of.tangled(of.grid.points * [1, 1, -1]) == len(of.corners)


def test_a_quad_folded_at_one_corner_counts_though_its_area_is_positive():
    of = corners(Mesh([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], {"quad": [[0, 1, 2, 3]]}))
    assert of.tangled(np.array([[0.0, 0.0], [1.0, 0.0], [0.2, 0.2], [0.0, 1.0]])) == 1


@pytest.mark.parametrize("name", ["polyhedra", "careless_polyhedra"])
def test_polyhedra_are_split_without_gaps(name):
    """Pieces may be flat where a cell has a point in the middle of a side, but none is missing."""
    mesh = MESHES[name]
    size = np.abs(measures(mesh.points.double().numpy(), simplices(mesh.cells).numpy())).sum()
    assert size == pytest.approx(float(mesh.cell_measures.sum()), rel=1e-12)


def test_what_cannot_be_moved_is_refused_by_name():
    with pytest.raises(InputError, match="surfaces are not moved"):
        corners(MESHES["cube_surface"])
    with pytest.raises(InputError, match=r"at a corner|folded"):
        corners(MESHES["tangled"])
    quadratic = next(m for m in MESHES.values() if m.cells[0].type == "triangle6")
    with pytest.raises(InputError, match="triangle6 are not moved"):
        corners(quadratic)


def test_folded_and_overfull_meshes_are_refused_with_the_place():
    fold = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.2, 0.2]]
    with pytest.raises(InputError, match=r"points \(0, 1\).* folded"):
        Simplices(fold, [[0, 1, 2], [0, 1, 3]])
    with pytest.raises(InputError, match="more than two cells"):
        Simplices([*fold, [0.5, -1.0]], [[0, 1, 2], [0, 1, 3], [0, 1, 4]])
    with pytest.raises(InputError, match=r"positive measure.* cell 0"):
        Simplices([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], [[0, 1, 2]])


def test_fields_are_carried_to_the_moved_points():
    """A linear field is itself wherever the points go; `keep` leaves values where they were."""
    grid = square(8)
    x = torch.from_numpy(grid.points)
    mesh = Mesh(x, {"triangle": torch.from_numpy(grid.cells)}, {"p": 2 * x[:, 0] - x[:, 1]})
    of = corners(mesh)
    moved = MongeAmpere(of.grid, rtol=1e-4).move(shock((1.0, 0.0), 0.5, 5.0, 10.0)).points
    carried = with_points(mesh, of, moved)
    y = torch.from_numpy(moved)
    assert (carried.point_fields["p"] - (2 * y[:, 0] - y[:, 1])).abs().max() < 1e-12
    kept = with_points(mesh, of, moved, "keep")
    assert torch.equal(kept.point_fields["p"], mesh.point_fields["p"])
    assert torch.equal(kept.points, carried.points)


def test_points_of_no_cell_stay_and_numbers_fit():
    mesh = MESHES["isolated"]
    of = corners(mesh)
    assert of.used.tolist() == [0, 2, 3, 4]
    moved = with_points(mesh, of, of.grid.points * 0.5)
    assert torch.equal(moved.points[[1, 5]], mesh.points[[1, 5]])
    assert torch.equal(moved.points[[2, 3]], 0.5 * mesh.points[[2, 3]])


def test_names_for_expressions():
    mesh = with_fields(MESHES["channel"])
    found = point_values(mesh, corners(mesh).used)
    assert {"p", "u", "u_x", "u_y", "k"} <= found.keys()
    assert np.allclose(found["u"] ** 2, found["u_x"] ** 2 + found["u_y"] ** 2)


def test_tetrahedra_have_the_boundary_of_their_box():
    grid = cube(3)
    assert np.linalg.norm(grid.boundary_normals, axis=1).sum() == pytest.approx(6.0)
    assert np.abs(grid.boundary_normals.sum(0)).max() < 1e-14
