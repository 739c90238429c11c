"""Series and Sample: frames, times, laziness, interpolation."""

import copy
import pickle

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series
from tests.helpers import MESHES


class Lazy:
    """Frames that count how often they are read."""

    def __init__(self, values):
        self.values, self.read = values, []

    def __len__(self):
        return len(self.values)

    def __getitem__(self, t):
        self.read.append(t)
        return self.values[t]


def triangle():
    return Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]}, {"c": [7, 8, 9]})


def test_frames_are_read_one_at_a_time():
    frames = Lazy(np.arange(12.0).reshape(4, 3))
    series = Series(triangle(), [0.0, 1.0, 2.0, 3.0], {"p": frames})
    assert frames.read == []
    assert series.frame(2).point_fields["p"].tolist() == [6, 7, 8]
    assert series.frame(-1).point_fields["p"].tolist() == [9, 10, 11]
    assert frames.read == [2, 3]
    assert series.frame(0).point_fields["c"].tolist() == [7, 8, 9]
    assert [float(m.point_fields["p"][0]) for m in series] == [0, 3, 6, 9]
    for t in (4, -5):
        with pytest.raises(InputError, match=f"frame {t} is outside 0..3"):
            series.frame(t)


def test_frames_share_what_the_mesh_has_worked_out():
    series = Series(triangle(), [0.0, 1.0], {"p": torch.zeros(2, 3)})
    first = series.frame(0).faces
    assert series.frame(1).faces is first is series.mesh.faces


def test_linear_fields_are_interpolated_exactly():
    times = torch.tensor([0.0, 0.1, 0.7, 2.0]).double()
    values = times[:, None, None] * torch.tensor([[1.0, -2.0], [3.0, 0.0], [0.5, 4.0]]) + 1.0
    points = triangle().points + times[:, None, None] * torch.tensor([1.0, 0.5])
    cells = 3 * times[:, None]
    series = Series(triangle(), times, {"u": values}, {"k": cells}, points)
    for t in (0.0, 0.05, 0.1, 0.3, 1.9999, 2.0):
        mesh = series.at(t)
        torch.testing.assert_close(mesh.point_fields["u"], values[0] + t * (values[3] - 1) / 2)
        torch.testing.assert_close(mesh.cell_fields["k"], torch.tensor([3 * t]).double())
        torch.testing.assert_close(mesh.points, points[0] + t * torch.tensor([1.0, 0.5]).double())
        assert mesh.point_fields["c"].tolist() == [7, 8, 9]
        torch.testing.assert_close(mesh.cell_measures, torch.tensor([0.5]).double())
    for t in (-0.1, 2.0001, float("nan")):
        with pytest.raises(InputError, match=r"is outside the series \(0 to 2\)"):
            series.at(t)


def test_at_a_frame_nothing_else_is_read():
    frames = Lazy(torch.arange(9.0).reshape(3, 3))
    series = Series(triangle(), [0.0, 0.5, 1.0], {"p": frames})
    assert series.at(0.5).point_fields["p"].tolist() == [3, 4, 5]
    assert frames.read == [1]


def test_a_field_is_stacked():
    values = torch.rand(2, 3, 2)
    series = Series(triangle(), [0.0, 1.0], {"u": list(values)}, {"k": [[1.0], [2.0]]})
    assert torch.equal(series.field("u"), values)
    assert series.field("k").tolist() == [[1], [2]]
    with pytest.raises(InputError, match="unknown field of the series 'v'"):
        series.field("v")


@pytest.mark.parametrize("times", [[], [0.0, 0.0], [1.0, 0.5], [0.0, float("nan")], [[0.0, 1.0]]])
def test_times_rise(times):
    with pytest.raises(InputError, match="rising"):
        Series(triangle(), times)


def test_lengths_are_checked():
    with pytest.raises(InputError, match="`p`: expected 2 frames"):
        Series(triangle(), [0.0, 1.0], {"p": torch.zeros(3, 3)})
    with pytest.raises(InputError, match=r"`p`: expected shape \(2, 3, …\), one row for each of"):
        Series(triangle(), [0.0, 1.0], {"p": torch.zeros(2, 4)})
    with pytest.raises(InputError, match=r"one row for each of the cells"):
        Series(triangle(), [0.0, 1.0], {}, {"k": torch.zeros(2, 3)})
    with pytest.raises(InputError, match="`points`: expected 2 frames"):
        Series(triangle(), [0.0, 1.0], points=torch.zeros(1, 3, 2))
    lazily = Series(triangle(), [0.0, 1.0], {"p": [[1.0], [2.0]]})
    with pytest.raises(InputError, match=r"point_fields\[p\]`: expected 3 rows"):
        lazily.frame(0)


def test_one_name_may_be_on_points_and_cells():
    series = Series(triangle(), [0.0], {"p": [[1.0, 2.0, 3.0]]}, {"p": [[9.0]]})
    assert series.frame(0).cell_fields["p"].tolist() == [9]
    assert series.field("p").tolist() == [[1, 2, 3]]
    with pytest.raises(InputError, match="`p`: expected 1 frames"):
        Series(triangle(), [0.0], {"p": [[1.0, 2.0, 3.0]] * 2}, {"p": [[9.0]]})


def test_a_part_is_read_as_lazily_as_the_whole():
    frames = Lazy(torch.arange(15.0).reshape(5, 3))
    points = triangle().points + torch.arange(5.0)[:, None, None]
    series = Series(triangle(), [0.0, 1.0, 2.0, 3.0, 4.0], {"p": frames}, points=points)
    part = series[1:5:2]
    assert frames.read == [] and part.times.tolist() == [1, 3]
    assert part.frame(1).point_fields["p"].tolist() == [9, 10, 11]
    assert part.frame(-2).points[0].tolist() == [1, 1]
    assert frames.read == [3, 1]
    assert part[1:].frame(0).point_fields["p"].tolist() == [9, 10, 11]
    assert [len(series[-2:]), len(series[:1]), len(series[:])] == [2, 1, 5]
    for empty in (slice(3, 3), slice(4, 0, -1), slice(9, 12)):
        with pytest.raises(InputError, match=r"expected a part of 0\.\.4"):
            series[empty]


def test_later_segments():
    later = Series(MESHES["channel"], [2.0, 3.0])
    series = Series(triangle(), [0.0, 1.0], later=(later,))
    assert [len(s) for s in series.segments] == [2, 2]
    assert series.segments[1].mesh is MESHES["channel"]
    assert repr(series).startswith("Series(2 times 0…1") and "1 later segments" in repr(series)


def test_series_and_samples_can_be_copied():
    series = Series(triangle(), [0.0, 1.0], {"p": torch.ones(2, 3)})
    sample = Sample(series, {"inflow": 1.5, "angle": [1.0, 2.0]}, "case")
    for twin in (copy.deepcopy(sample), pickle.loads(pickle.dumps(sample))):
        assert twin.name == "case" and twin.parameters["inflow"] == 1.5
        assert torch.equal(twin.branch.field("p"), series.field("p"))
        with pytest.raises(TypeError):
            twin.parameters["inflow"] = 2.0


def test_branches_of_a_sample():
    surface, volume = MESHES["cube_surface"], Series(triangle(), [0.0])
    car = Sample({"surface": surface, "volume": volume})
    assert car.branches["surface"] is surface
    with pytest.raises(InputError, match="branches surface, volume: say which"):
        _ = car.mesh
    assert Sample(volume).mesh is volume.mesh
    with pytest.raises(InputError, match="at least one"):
        Sample({})
