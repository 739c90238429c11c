"""Fields of one mesh on another."""

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.geometry.measure import incidence
from meshsim.mesh import Mesh
from meshsim.render import carry, probe
from meshsim.series import Series
from tests.helpers import MESHES
from tests.render.drawing import grid
from tests.render.test_section import cube


def linear(points):
    return points @ torch.arange(1.0, points.shape[1] + 1, dtype=points.dtype) + 0.5


@pytest.mark.parametrize("name", ["channel", "mixed_solid", "biquadratic2d", "cube_surface"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_fields_come_over_exactly(name, dtype):
    data = MESHES[name].to(dtype=dtype)
    data = data.with_fields({"p": linear(data.points), "x": data.points})
    inside = data.cell_centres  # which a flat cell holds
    goal = Mesh(inside, {"vertex": torch.arange(len(inside))[:, None]})
    found, outside = carry(data, goal)
    assert outside == 0 and found.point_fields["p"].dtype == dtype
    assert (found.point_fields["p"] - linear(inside)).abs().max() < 1e-4
    assert (found.point_fields["x"] - inside).abs().max() < 1e-4
    assert torch.equal(found.cell_fields["k"], data.cell_fields["k"])  # each cell finds itself


def test_onto_itself_nothing_changes():
    mesh = MESHES["polygons"]
    found, outside = carry(mesh, mesh.replace(point_fields={}, cell_fields={}))
    assert outside == 0
    assert (found.point_fields["u"] - mesh.point_fields["u"]).abs().max() < 1e-9
    assert torch.equal(found.cell_fields["k"], mesh.cell_fields["k"])


def test_points_outside_take_the_nearest_value_and_are_counted():
    data = grid().with_fields({"p": grid().points[:, 0], "n": np.arange(45)})
    goal = Mesh([[-1.0, 0.5], [3.0, 0.5], [1.0, 0.5]], {"triangle": [[0, 1, 2]]})
    found, outside = carry(data, goal)
    assert outside == 2
    assert np.allclose(found.point_fields["p"], [0, 2, 1], atol=1e-6)
    assert found.point_fields["n"].dtype == torch.int64
    assert found.point_fields["n"].tolist() == [18, 26, 22]
    with pytest.raises(InputError, match="2-D and 3-D"):
        carry(data, MESHES["mixed_solid"])


def test_a_series_comes_over_at_all_its_times():
    data = MESHES["mixed_solid"]
    fields = {"p": [linear(data.points) * t for t in (1.0, 2.0, 5.0)]}
    cells = {"k": [torch.full((data.n_cells,), t) for t in (1, 2, 5)]}
    series = Series(data.replace(point_fields={}, cell_fields={}), [0.0, 0.5, 2.0], fields, cells)
    inside = data.cell_centres
    goal = Mesh(inside, {"vertex": torch.arange(len(inside))[:, None]})
    found, outside = carry(series, goal)
    assert outside == 0 and found.times.tolist() == [0.0, 0.5, 2.0]
    for t, factor in enumerate((1, 2, 5)):
        frame = found.frame(t)
        assert (frame.point_fields["p"] - factor * linear(inside)).abs().max() < 1e-4
        assert frame.cell_fields["k"].unique().tolist() == [factor]
    moving = Series(series.mesh, series.times, points=[data.points * t for t in (1, 2, 3)])
    with pytest.raises(InputError, match="rests"):
        carry(moving, goal)


def places_in(mesh, of_each=5):
    """Means of the points of cells with random weights."""
    cell, point = incidence(mesh.cells)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(of_each):
        share = torch.rand(len(cell), generator=generator, dtype=torch.float64) ** 2
        total = torch.zeros(mesh.n_cells, dtype=torch.float64).index_add(0, cell, share)
        x = torch.zeros(mesh.n_cells, mesh.dim, dtype=torch.float64)
        x = x.index_add(0, cell, share[:, None] * mesh.points.double()[point])
        found.append(x / total[:, None])
    return torch.cat(found)


@pytest.mark.parametrize(
    "name", ["channel", "mixed_solid", "warped", "polygons", "polyhedra", "quadratic2d"]
)
def test_linear_fields_are_exact_anywhere_inside(name):
    data = MESHES[name].to(dtype=torch.float64)
    data = data.with_fields({"p": linear(data.points)})
    places = places_in(data)
    found, inside = probe(data, places)
    assert inside.double().mean() > 0.9
    assert (found.point_fields["p"] - linear(places))[inside].abs().max() < 1e-9


def test_places_beside_polyhedra_are_outside():
    data = MESHES["polyhedra"]
    low, high = data.points.aminmax(dim=0)
    share = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = low + (high - low) * share
    found, inside = probe(data.with_fields({"x": data.points}), places)
    # linear exactness says where a value was taken: inside at the place, else on the skin
    error = (found.point_fields["x"] - places).norm(dim=1)
    assert 0.3 < inside.double().mean() < 0.7
    assert error[inside].max() < 1e-5 and error[~inside].min() > 1e-5
    faces = data.faces
    outer = faces.neighbour < 0
    height = ((places[:, None] - faces.centre[outer]) * faces.area[outer]).sum(2)
    assert not bool(inside[(height > 1e-6).all(1)].any())


def test_hexahedra_weigh_as_in_vtk():
    from vtkmodules.vtkCommonCore import mutable

    from meshsim.render.locate import locate
    from meshsim.render.scene import to_pyvista

    box = box_of(6)
    places = np.random.default_rng(0).uniform(0.0, 1.0, (2000, 3))
    matrix, cell, outside = locate(box, places)
    assert not outside.any()
    volume, sub, square = to_pyvista(box), mutable(0), mutable(0.0)
    for row, (x, number) in enumerate(zip(places.tolist(), cell.tolist(), strict=True)):
        hexahedron, share = volume.GetCell(number), [0.0] * 8
        inside = hexahedron.EvaluatePosition(x, [0.0] * 3, sub, [0.0] * 3, square, share)
        points = [hexahedron.GetPointId(i) for i in range(8)]
        assert inside == 1
        assert np.allclose(matrix[row, points].toarray()[0], share, rtol=0, atol=1e-6)


def box_of(n, shake=0.2):
    mesh = cube(n)
    x = mesh.points.numpy().copy()
    inner = ((x > 0) & (x < 1)).all(1)
    x[inner] += shake / n * np.random.default_rng(1).uniform(-1, 1, (inner.sum(), 3))
    return Mesh(x, mesh.cells)


def test_a_missing_value_stays_where_it_is():
    data = grid()
    values = data.points[:, 0].clone()
    values[0] = torch.nan
    data = data.with_fields({"p": values})
    found, _ = carry(data, data.replace(point_fields={}))
    assert found.point_fields["p"].isnan().nonzero().tolist() == [[0]]


def test_places_keep_their_digits_and_what_is_no_place_has_no_value():
    data = grid().to(dtype=torch.float32)
    data = data.with_fields({"p": linear(data.points)})
    places = torch.tensor([[0.1, 0.7], [torch.nan, 0.5]], dtype=torch.float64)
    found, inside = probe(data, places)
    assert found.points.dtype == torch.float64 and torch.equal(found.points[0], places[0])
    assert inside.tolist() == [True, False]
    assert found.point_fields["p"].isnan().tolist() == [False, True]
