"""What `info` says of meshes, series and samples."""

import json

import torch

from meshsim.inspect import describe
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series
from tests.helpers import MESHES

KEYS = [
    *("file", "format", "reader", "points", "dim", "cells", "faces", "point_fields"),
    *("cell_fields", "boundaries", "regions", "times", "bounds", "notes", "parameters"),
]


def test_every_mesh_is_described_as_json():
    for name, mesh in MESHES.items():
        found = json.loads(json.dumps(describe(mesh, file=name), allow_nan=False))
        assert set(KEYS) <= set(found)
        assert found["file"] == name
        assert found["points"] == mesh.n_points
        assert sum(found["cells"].values()) == mesh.n_cells
        assert found["faces"] == len(mesh.faces)
        assert set(found["point_fields"]) == {"p", "u"}


def test_numbers_of_a_mixed_mesh():
    mesh = MESHES["channel"]
    found = describe(mesh, file="a.su2", format="su2", reader="meshsim")
    assert (found["format"], found["reader"]) == ("su2", "meshsim")
    assert found["cells"] == {"triangle": 6, "quad": 5}
    assert found["boundaries"] == {"inlet": 2, "outlet": 2, "wall": 8}
    assert found["regions"] == {"left": 3, "right": 2}
    assert found["bounds"] == [[0.0, 0.0], [4.0, 2.0]]
    assert found["global_fields"] == {"time": 0.25}
    u = found["point_fields"]["u"]
    assert u["shape"] == [15, 2] and u["dtype"] == "float64"
    assert u["min"] == mesh.point_fields["u"].min(0).values.tolist()
    assert found["times"] == []


def test_values_that_are_not_finite_do_not_spoil_the_range():
    mesh = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    nan, inf = float("nan"), float("inf")
    mesh = mesh.with_fields({"a": [nan, 2.0, -inf], "b": [nan, nan, nan], "c": [True, False, True]})
    found = describe(mesh)["point_fields"]
    assert (found["a"]["min"], found["a"]["max"], found["a"]["not_finite"]) == (2.0, 2.0, 2)
    assert (found["b"]["min"], found["b"]["max"], found["b"]["not_finite"]) == (None, None, 3)
    assert (found["c"]["dtype"], found["c"]["min"], found["c"]["max"]) == ("bool", 0.0, 1.0)


class Counting:
    """Frames that remember which of them were asked for."""

    def __init__(self, values):
        self.values, self.asked = values, set()

    def __len__(self):
        return len(self.values)

    def __getitem__(self, t):
        self.asked.add(t)
        return self.values[t]


def test_a_series_is_looked_at_in_its_first_and_last_frame_only():
    mesh = MESHES["channel"]
    values = torch.zeros(5, mesh.n_points)
    values[2] = 7.0
    values[4] = 3.0
    frames = Counting(values)
    series = Series(mesh, [0.0, 1.0, 2.0, 3.0, 4.0], {"s": frames})
    found = describe(series)
    assert frames.asked == {0, 4}
    assert found["point_fields"]["s"]["shape"] == [5, mesh.n_points]
    assert found["point_fields"]["s"]["max"] == 3.0
    assert found["times"] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert describe(series, full=True)["point_fields"]["s"]["max"] == 7.0


def test_moving_points_and_segments():
    mesh = MESHES["channel"]
    moving = torch.stack([mesh.points, mesh.points + 1.0])
    later = Series(MESHES["polygons"], [2.0])
    found = describe(Series(mesh, [0.0, 1.0], points=moving, later=(later,)))
    assert found["bounds"] == [[0.0, 0.0], [5.0, 3.0]]
    assert [segment["times"] for segment in found["segments"]] == [[0.0, 1.0], [2.0]]


def test_samples_with_one_and_with_several_branches():
    mesh = MESHES["channel"]
    one = describe(Sample(mesh, {"angle": 3.0}), file="a.npz")
    assert one["parameters"] == {"angle": 3.0} and one["points"] == mesh.n_points
    two = describe(Sample({"surface": mesh, "volume": MESHES["mixed_solid"]}, {"v": [1.0, 2.0]}))
    assert set(two["branches"]) == {"surface", "volume"}
    assert two["parameters"] == {"v": [1.0, 2.0]}
    assert two["branches"]["volume"]["dim"] == 3
