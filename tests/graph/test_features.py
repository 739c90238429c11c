"""Geometry features against shapes whose values are known."""

import pytest
import torch

from meshsim.check import InputError
from meshsim.graph.features import FEATURE_WIDTH, cell_features, point_features
from meshsim.graph.mesh_graph import NodeType
from meshsim.mesh import Boundary, Mesh
from tests.graph.grids import grid
from tests.helpers import DTYPES, MESHES


def sphere(radius=1.0, rounds=3, dtype=torch.float64):
    """An octahedron, refined and blown up to a sphere; outward normals."""
    x = torch.tensor([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    x = x.double()
    t = torch.tensor(
        [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
    )
    for _ in range(rounds):
        edges = torch.cat([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]]).sort(1).values
        pairs, number = edges.unique(dim=0, return_inverse=True)
        m = (number + len(x)).reshape(3, -1)
        x = torch.cat([x, x[pairs].mean(1)])
        a, b, c = t.T
        parts = [(a, m[0], m[2]), (m[0], b, m[1]), (m[2], m[1], c), (m[0], m[1], m[2])]
        t = torch.cat([torch.stack(part, 1) for part in parts])
        x = x / x.norm(dim=1, keepdim=True)
    return Mesh((radius * x).to(dtype), {"triangle": t})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("radius", [0.5, 2.0])
def test_sphere(radius, dtype):
    mesh = sphere(radius, dtype=dtype)
    normal = point_features(mesh, ["normal"])
    torch.testing.assert_close(normal, mesh.points / radius, atol=0.04, rtol=0)
    curvature = point_features(mesh, ["curvature"])
    torch.testing.assert_close(curvature, torch.full_like(curvature, 1 / radius), rtol=0.08, atol=0)
    inside_out = Mesh(mesh.points, {"triangle": mesh.cells[0].nodes.flip(1)})
    assert torch.allclose(point_features(inside_out, ["curvature"]), -curvature)
    share = point_features(mesh, ["log_measure"]).exp().sum()
    assert share == pytest.approx(float(mesh.cell_measures.sum()), rel=1e-5)


def test_curvature_is_exact_where_normals_are_and_zero_on_a_plane():
    curvature = point_features(sphere(rounds=1), ["curvature"])  # symmetric about every point
    torch.testing.assert_close(curvature, torch.ones_like(curvature), rtol=1e-14, atol=0)
    flat = point_features(MESHES["lifted"], ["curvature"])
    assert flat.abs().max() < 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in MESHES if MESHES[n].cell_dim == MESHES[n].dim])
def test_normals_of_solids_point_out(name, dtype):
    mesh = MESHES[name].to(dtype=dtype)
    normal, faces = point_features(mesh, ["normal"]), mesh.faces
    length = normal.norm(dim=1)
    assert ((length - 1).abs().minimum(length.abs()) < 1e-5).all()  # 1 on the boundary, 0 inside
    on = torch.zeros(mesh.n_points, dtype=torch.bool)
    for f in (faces.neighbour < 0).nonzero().squeeze(1).tolist():
        on[faces.nodes[faces.offsets[f] : faces.offsets[f + 1]]] = True
        on[faces.mid_nodes[faces.mid_offsets[f] : faces.mid_offsets[f + 1]]] = True
    assert not (length[~on] > 0).any() and (length > 0).any()


def test_normals_of_a_square():
    normal = point_features(grid(4, 2), ["normal"])
    points = grid(4, 2).points
    bottom = (points[:, 1] == 0) & (points[:, 0] > 0) & (points[:, 0] < 4)
    assert (normal[bottom] == torch.tensor([0.0, -1.0])).all()
    assert torch.allclose(normal[0], torch.tensor([-1.0, -1.0]).double() / 2**0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_boxes_and_distances(dtype):
    mesh = grid(4, 2, dtype=dtype)
    x = mesh.points
    out = point_features(mesh, ["position", "box_position", "box_size", "wall_distance"])
    assert out.dtype == dtype
    assert torch.equal(out[:, :2], x)
    assert torch.equal(out[:, 2:4], torch.stack([x[:, 0] / 2 - 1, x[:, 1] - 1], 1))
    assert (out[:, 4:6] == torch.tensor([4.0, 2.0])).all()
    # top and bottom are walls by name; left and right say nothing
    assert torch.equal(out[:, 6], torch.minimum(x[:, 1], 2 - x[:, 1]))
    left = point_features(mesh, ["wall_distance:left"])[:, 0]
    assert torch.equal(left, x[:, 0])


def test_distance_to_any_boundary_where_no_name_says_wall():
    mesh = grid(4, 4)
    x = mesh.points
    expected = torch.minimum(x, 4 - x).amin(1)
    nameless = mesh.replace(boundaries={})
    assert torch.equal(point_features(nameless, ["wall_distance"])[:, 0], expected)
    only = mesh.replace(boundaries={"left": mesh.boundaries["left"]})
    assert torch.equal(point_features(only, ["wall_distance"])[:, 0], x[:, 0])


def test_points_of_no_cell_and_flat_boxes():
    mesh = MESHES["isolated"]
    measure = point_features(mesh, ["log_measure"])
    assert measure.isfinite().all() and measure[1] == measure.min()
    flat = MESHES["cube_surface"]
    flat = flat.replace(points=flat.points * torch.tensor([1.0, 1.0, 0.0]))
    assert (point_features(flat, ["box_position"])[:, 2] == 0).all()


def test_widths_and_order():
    mesh = sphere(rounds=1)
    for name, width in FEATURE_WIDTH.items():
        if name != "wall_distance":  # a closed surface has no boundary
            assert point_features(mesh, [name]).shape == (mesh.n_points, width or mesh.dim)
    two = point_features(mesh, ["curvature", "position"])
    assert torch.equal(two[:, 1:], mesh.points) and point_features(mesh, []).shape[1] == 0


def test_refusals():
    with pytest.raises(InputError, match="unknown feature 'normals': did you mean 'normal'"):
        point_features(grid(1, 1), ["normals"])
    with pytest.raises(InputError, match="'curvature': needs a surface"):
        point_features(grid(1, 1), ["curvature"])
    with pytest.raises(InputError, match="'normal': 1-D cells in 3-D have none"):
        point_features(MESHES["junction"], ["normal"])
    with pytest.raises(InputError, match="the mesh has no boundary"):
        point_features(sphere(rounds=1), ["wall_distance"])
    with pytest.raises(InputError, match="unknown boundary 'lft': did you mean 'left'"):
        point_features(grid(1, 1), ["wall_distance:lft"])
    with pytest.raises(InputError, match="only wall_distance takes"):
        point_features(grid(1, 1), ["normal:left"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_cells_of_a_box(dtype):
    mesh = box(dtype)
    found = cell_features(mesh, ["log_measure"]).exp()
    assert float(found.sum()) == pytest.approx(float(mesh.cell_measures.sum()), rel=1e-5)
    # every cell of a 3 x 3 x 3 grid but the middle one has a side outside
    normal = cell_features(mesh, ["normal"]).norm(dim=1)
    outer = torch.bincount(mesh.faces.owner[mesh.faces.neighbour < 0], minlength=mesh.n_cells) > 0
    centred = cell_features(mesh, ["box_position"]).norm(dim=1) < 1e-6
    assert torch.equal(centred, ~outer) and int(centred.sum()) == 1
    torch.testing.assert_close(normal, outer.to(dtype))
    distance = cell_features(mesh, ["wall_distance"])[:, 0]
    half = 0.5  # of a cell's side: that far are outer cells from the middle of their face
    torch.testing.assert_close(distance[outer], torch.full_like(distance[outer], half))
    torch.testing.assert_close(distance[~outer], torch.full_like(distance[~outer], 1.5))


def test_cells_know_what_boundaries_they_are_on():
    mesh = box()
    outside = (mesh.faces.neighbour < 0).nonzero().squeeze(1)
    low = outside[mesh.faces.centre[outside, 0] == 0]
    mesh = mesh.replace(boundaries={"inlet": Boundary(low, {}, "patch")})
    on = cell_features(mesh, ["on_boundary"])
    first = mesh.cell_centres[:, 0] < 1
    assert on.shape == (27, int(NodeType.SIZE)) and on.sum() == 9
    assert torch.equal(on[:, NodeType.INFLOW] > 0, first)
    points = point_features(mesh, ["on_boundary"])
    assert torch.equal(points[:, NodeType.INFLOW] > 0, mesh.points[:, 0] == 0)
    away = cell_features(mesh, ["wall_distance:inlet"])[:, 0]
    torch.testing.assert_close(away, mesh.cell_centres[:, 0])


def test_what_cells_cannot_have():
    with pytest.raises(InputError, match="'curvature': cells have none"):
        cell_features(box(), ["curvature"])
    with pytest.raises(InputError, match="unknown feature 'normals'"):
        cell_features(box(), ["normals"])
    assert cell_features(box(), []).shape == (27, 0)


def box(dtype=torch.float64):
    """A cube of 3 x 3 x 3 unit hexahedra."""
    k = torch.arange(4)
    points = torch.cartesian_prod(k, k, k).to(dtype)
    i = torch.cartesian_prod(k[:3], k[:3], k[:3]) @ torch.tensor([16, 4, 1])
    corner = torch.tensor([0, 16, 20, 4, 1, 17, 21, 5])
    return Mesh(points, {"hexahedron": i[:, None] + corner})
