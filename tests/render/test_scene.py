"""Meshes as VTK knows them, their surfaces, and the views on them."""

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.geometry.cells import TYPES
from meshsim.mesh import Mesh
from meshsim.render.scene import surface, to_pyvista
from meshsim.render.view import look, upright, used_points
from tests.helpers import MESHES

SURFACES = [name for name, mesh in MESHES.items() if mesh.cell_dim >= 2]
CLOSED = ["mixed_solid", "warped", "polyhedra", "quadratic3d", "triquadratic3d"]


@pytest.mark.parametrize("name", MESHES)
def test_cells_keep_their_types_points_and_fields(name):
    mesh = MESHES[name]
    grid = to_pyvista(mesh)
    types = np.concatenate([[TYPES[b.type][3]] * len(b) for b in mesh.cells])
    if name == "triquadratic3d":  # VTK has no pyramid of 14 nodes
        types[types == TYPES["pyramid14"][3]] = TYPES["pyramid13"][3]
    assert np.array_equal(grid.celltypes, types)
    assert np.array_equal(grid.points[:, : mesh.dim], mesh.points.numpy())
    assert np.array_equal(grid.point_data["p"], mesh.point_fields["p"].numpy())
    assert np.array_equal(grid.cell_data["k"], mesh.cell_fields["k"].numpy())
    assert grid.point_data["u"].shape == (mesh.n_points, 3)
    first = 0
    for block in mesh.cells:
        for i in range(len(block)):
            found = set(grid.get_cell(first + i).point_ids)
            if block.type == "polyhedron":
                of = block.face_offsets[block.offsets[i]], block.face_offsets[block.offsets[i + 1]]
                known = set(block.nodes[of[0] : of[1]].tolist())
            elif block.type == "polygon":
                known = set(block.nodes[block.offsets[i] : block.offsets[i + 1]].tolist())
            else:
                known = set(block.nodes[i].tolist())
                known -= {int(block.nodes[i, 13])} if block.type == "pyramid14" else set()
            assert found == known
        first += len(block)


@pytest.mark.parametrize("name", ["mixed_solid", "polyhedra", "channel"])
def test_vtk_measures_the_same_volumes(name):
    mesh = MESHES[name]
    sizes = to_pyvista(mesh).compute_cell_sizes(length=False)
    key = "Volume" if mesh.cell_dim == 3 else "Area"
    known = mesh.cell_measures.numpy()
    assert np.abs(np.abs(sizes.cell_data[key]) - known).max() < 1e-6 * known.max()


def test_planar_meshes_get_their_plane_back():
    mesh = MESHES["channel"].replace(z=0.25)
    assert (to_pyvista(mesh).points[:, 2] == 0.25).all()


@pytest.mark.parametrize("name", SURFACES)
def test_triangles_belong_to_their_cells(name):
    mesh = MESHES[name]
    skin = surface(mesh)
    grid = to_pyvista(mesh)
    for triangle, cell in zip(skin.corners, skin.cells, strict=True):
        assert set(triangle.tolist()) <= set(grid.get_cell(int(cell)).point_ids)
    if mesh.cell_dim == 2:
        assert set(skin.cells.tolist()) == set(range(mesh.n_cells))


@pytest.mark.parametrize("name", CLOSED)
def test_surfaces_of_solids_are_closed(name):
    mesh = MESHES[name]
    corners = mesh.points.numpy()[surface(mesh).corners]
    sides = surface(mesh)
    assert not sides.outline.any()
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    if name != "triquadratic3d":  # where VTK winds some sides inwards
        assert np.abs(area.sum(0)).max() < 1e-9
    assert np.linalg.norm(sides.normals, axis=-1).min() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["channel", "polygons", "quadratic2d", "biquadratic2d"])
def test_triangles_fill_planar_cells(name):
    mesh = MESHES[name]
    skin = surface(mesh, linear=True)
    a, b, c = mesh.points.numpy()[skin.corners].transpose(1, 0, 2)
    area = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    share = np.bincount(skin.cells, np.abs(area), mesh.n_cells)
    assert np.abs(share - mesh.cell_measures.numpy()).max() < 1e-9
    assert skin.normals is None


def test_edges_of_cells_are_told_from_cuts_through_them():
    quad = Mesh([[0.0, 0], [1, 0], [1, 1], [0, 1]], {"quad": [[0, 1, 2, 3]]})
    skin = surface(quad)
    assert len(skin.corners) == 2
    assert skin.edges.sum() == 4 and np.array_equal(skin.edges, skin.outline)


def test_a_cut_shows_the_inside():
    points = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    at = np.arange(64).reshape(4, 4, 4)
    i, j, k = (a.ravel() for a in np.meshgrid(*[np.arange(3)] * 3, indexing="ij"))
    ring = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]
    mesh = Mesh(points, {"hexahedron": np.stack([at[i + a, j + b, k + c] for a, b, c in ring], 1)})
    whole, half = surface(mesh), surface(mesh, cut="x")
    assert 13 not in whole.cells and 13 in half.cells  # the middle cell
    assert points[half.corners][..., 0].min() == 1.0
    with pytest.raises(InputError, match="axis to cut at 'w'"):
        surface(mesh, cut="w")


def test_views_hold_everything_and_keep_the_aspect():
    rng = np.random.default_rng(0)
    for points in (rng.uniform(-3, 9, (50, 2)), rng.normal(size=(50, 3)) * [4.0, 2.0, 1.5]):
        view = look(points)
        place = view.pixels(points, 300, round(300 / view.aspect))
        assert place[:, 0].min() >= 0 and place[:, 0].max() <= 300
        assert place[:, 1].min() >= 0 and place[:, 1].max() <= 300 / view.aspect + 1
        assert np.allclose(view.axes @ view.axes.T, np.eye(len(view.axes)))
        # too much room on one side must not stretch the picture
        wide = view.pixels(points, 900, round(300 / view.aspect))
        assert np.allclose(np.ptp(wide[:, 0]), np.ptp(place[:, 0]), rtol=0.01)


def test_up_is_up():
    car = np.random.default_rng(0).uniform(-1, 1, (200, 3)) * [0.9, 0.55, 2.1]
    for up, axis in ((None, 1), ("x", 0), ("z", 2)):
        view = look(car, up=up)
        assert view.axes[1].argmax() == axis and view.axes[1, axis] > 0.8
    cube = car / [0.9, 0.55, 2.1]
    assert look(cube).axes[1].argmax() == 2
    top = look(cube, view="z")
    assert np.array_equal(top.axes, np.eye(3))
    sheet = cube * [1, 0, 1]
    assert abs(look(sheet).axes[2, 1]) == 1  # a planar body is seen from the front
    for view, up, message in (
        ("y", "y", "cannot look"),
        ("w", None, "axis"),
        ("auto", "w", "axis"),
    ):
        with pytest.raises(InputError, match=message):
            look(cube, view, up)


def test_bodies_on_the_ground_stand():
    bike = np.array([[-0.3, -0.35, 0.0], [1.7, 0.35, 1.35]])
    assert upright(bike) == "z" and upright(bike[:, [0, 2, 1]]) == "y"
    van = np.array([[-0.9, 0.2, -2.2], [0.9, 1.7, 2.2]])
    assert upright(van) == "y"
    wing = np.array([[0.0, -0.06, -0.5], [1.0, 0.06, 0.5]])  # x = 0 is its nose, not the ground
    assert upright(wing) == "y"
    assert upright(np.array([[0.0, 0, 0], [1, 1, 1]])) == "z"


def test_views_of_lines_points_and_nothing():
    assert look(np.array([[0.0, 0], [5, 0]])).aspect < 40
    assert look(np.array([[1.0, 2.0, 3.0]])).aspect == pytest.approx(1)
    with pytest.raises(InputError, match="none of them is finite"):
        look(np.full((3, 2), np.nan))


def test_isolated_points_do_not_move_the_view():
    mesh = MESHES["isolated"]
    used = torch.cat([b.nodes.reshape(-1) for b in mesh.cells]).unique()
    assert len(used) < mesh.n_points
    assert np.array_equal(used_points(mesh), mesh.points[used].numpy())
