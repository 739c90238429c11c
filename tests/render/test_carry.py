"""Fields of one mesh on another."""

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.render import carry
from meshsim.series import Series
from tests.helpers import MESHES
from tests.render.drawing import grid


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
