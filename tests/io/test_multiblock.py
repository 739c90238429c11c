"""VTK's lists of blocks: every data set that is named is there."""

from __future__ import annotations

import pytest
import torch

import meshsim
from meshsim.check import InputError
from meshsim.mesh import Mesh

PIECES = """<VTKFile type="vtkMultiBlockDataSet" version="1.0"><vtkMultiBlockDataSet>
<Block index="0" name="elements">
<Piece index="0"><DataSet index="0" file="a.vtu"/></Piece>
<Piece index="1"><DataSet index="1" file="b.vtu"/></Piece>
<Piece index="2"><DataSet index="0" file="c.vtu"/></Piece>
<Piece index="3"><DataSet index="1" name="last" file="d.vtu"/></Piece>
</Block></vtkMultiBlockDataSet></VTKFile>"""


def row(i):
    """A unit square at x = i."""
    points = torch.tensor([[i, 0.0, 0.0], [i + 1, 0, 0], [i + 1, 1, 0], [i, 1, 0]])
    return Mesh(points, {"quad": [[0, 1, 2, 3]]}, cell_fields={"part": [float(i)]})


def test_pieces_of_equal_number_are_all_read(tmp_path):
    for i, name in enumerate("abcd"):
        meshsim.write(row(i), tmp_path / f"{name}.vtu")
    (tmp_path / "all.vtm").write_text(PIECES)
    mesh = meshsim.read(tmp_path / "all.vtm")
    assert mesh.n_cells == 4 and mesh.n_points == 10
    assert mesh.cell_fields["part"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert {name: rows.tolist() for name, rows in mesh.regions.items()}["last"] == [3]
    assert sorted(mesh.cell_centres[:, 0].tolist()) == [0.5, 1.5, 2.5, 3.5]


def test_a_file_that_is_not_there_is_named(tmp_path):
    meshsim.write(row(0), tmp_path / "a.vtu")
    (tmp_path / "all.vtm").write_text(PIECES)
    with pytest.raises(InputError, match=r"names 'b\.vtu', which is not there"):
        meshsim.read(tmp_path / "all.vtm")
