"""Defects are found where they were put, and nowhere else."""

import pytest
import torch

from meshsim.geometry import measure, quality
from meshsim.geometry.cells import Cells
from tests.helpers import CUBE, DTYPES, MESHES

SOUND = [n for n in MESHES if n not in ("tangled", "carelessly_wound")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SOUND)
def test_sound_meshes_have_no_defects(name, dtype):
    mesh = MESHES[name].to(dtype=dtype)
    assert quality.inverted(mesh.points, mesh.cells).tolist() == []
    assert quality.degenerate(mesh.points, mesh.cells).tolist() == []
    assert quality.duplicate_points(mesh.points).tolist() == []


def test_turned_cells_are_found():
    mesh = MESHES["tangled"]
    x = mesh.points[mesh.cells[0].nodes]
    a, b = (x[:, 1] - x[:, 0]), (x[:, 2] - x[:, 0])
    turned = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) < 0
    found = quality.inverted(mesh.points, mesh.cells)
    assert found.tolist() == turned.nonzero().squeeze(1).tolist() != []
    mesh = MESHES["carelessly_wound"]
    assert quality.inverted(mesh.points, mesh.cells).tolist() in ([0, 2, 4], [1, 3, 5])


def test_a_block_wound_the_other_way_throughout_is_sound():
    mesh = MESHES["channel"]
    blocks = [Cells(b.type, b.nodes.flip(1)) for b in mesh.cells]
    assert quality.inverted(mesh.points, blocks).tolist() == []
    points = torch.tensor(CUBE).double()
    rows = torch.tensor([[0, 3, 1, 4], [2, 1, 3, 6], [5, 6, 4, 1], [7, 4, 6, 3]])
    assert (measure.signed_measures(points, [Cells("tetra", rows)]) < 0).all()
    assert quality.inverted(points, [Cells("tetra", rows)]).tolist() == []
    rows[2] = rows[2, [1, 0, 2, 3]]
    assert quality.inverted(points, [Cells("tetra", rows)]).tolist() == [2]


def test_flat_cells_are_found_whatever_their_size():
    points = torch.cat([torch.tensor(CUBE).double(), torch.tensor(CUBE).double() * 1e-6])
    rows = torch.tensor([[0, 1, 3, 4], [0, 1, 2, 3], [8, 9, 11, 12], [8, 8, 9, 10]])
    assert quality.degenerate(points, [Cells("tetra", rows)]).tolist() == [1, 3]
    lines = [Cells("line", torch.tensor([[0, 1], [2, 2]]))]
    assert quality.degenerate(points, lines).tolist() == [1]


def test_double_points_are_found():
    points = torch.tensor([[0.0, 1.0], [2.0, 3.0], [-0.0, 1.0], [2.0, 4.0], [0.0, 1.0]])
    assert quality.duplicate_points(points).tolist() == [2, 4]
    assert quality.duplicate_points(points[:0]).tolist() == []


def test_points_of_no_cell_are_found():
    mesh = MESHES["isolated"]
    assert quality.unused_points(mesh.cells, mesh.n_points).tolist() == [1, 5]
    assert quality.unused_points([], 2).tolist() == [0, 1]
    assert quality.unused_points(MESHES["polyhedra"].cells, 99)[0] == MESHES["polyhedra"].n_points
