"""SU2's meshes and results: high order, zones, odd markers, csv and restart files."""

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.io import attach, read, write
from meshsim.io.raw.su2 import DEGREE_TWO, _corners, _nodes
from meshsim.series import Series
from tests.helpers import MESHES
from tests.io.test_gmsh import middles

ZONE = """NDIME= 2
NELEM= 2
5 0 1 2 0
9 1 3 4 2 1
NPOIN= 5 5
{x}0 0 0
{x}1 0 1
{x}1 1 2
{x}2 0 3
{x}2 1 4
NMARK= 2
MARKER_TAG= wall {tag}
MARKER_ELEMS= 1
3 0 1
MARKER_TAG= SEND_RECEIVE
MARKER_ELEMS= 2
SEND_TO= 1
1 0 0
1 2 0
"""


def test_comments_numbers_and_markers_between_processes(tmp_path):
    (tmp_path / "a.su2").write_text("% comment\n\n" + ZONE.format(x="", tag="% the wall"))
    mesh = read(tmp_path / "a.su2")
    assert {b.type: b.nodes.tolist() for b in mesh.cells} == {
        "triangle": [[0, 1, 2]],
        "quad": [[1, 3, 4, 2]],
    }
    assert set(mesh.boundaries) == {"wall"}
    assert any("2 single points" in note for note in mesh.notes)


def test_comments_behind_cells_and_points_and_blank_lines(tmp_path):
    text = ZONE.format(x="", tag="A").replace("5 0 1 2 0\n", "5\t0 1 2 % first\n\n%\n")
    (tmp_path / "a.su2").write_text(text.replace("2 1 4\n", "2 1 4 % last\r\n"))
    mesh = read(tmp_path / "a.su2")
    assert [b.nodes.tolist() for b in mesh.cells] == [[[0, 1, 2]], [[1, 3, 4, 2]]]
    assert mesh.points.tolist() == [[0, 0], [1, 0], [1, 1], [2, 0], [2, 1]]


def test_zones_stand_side_by_side(tmp_path):
    text = "NZONE= 2\nIZONE= 1\n" + ZONE.format(x="", tag="A") + "IZONE= 2\n"
    (tmp_path / "a.su2").write_text(text + ZONE.format(x="1", tag="B"))
    mesh = read(tmp_path / "a.su2")
    assert mesh.n_points == 10 and mesh.n_cells == 4
    assert {name: len(rows) for name, rows in mesh.regions.items()} == {"zone1": 2, "zone2": 2}
    assert mesh.cells[0].nodes.tolist() == [[0, 1, 2], [5, 6, 7]]
    assert {"wall A", "wall B"} == set(mesh.boundaries)


@pytest.mark.parametrize("shape", DEGREE_TWO)
@pytest.mark.parametrize("p", [2, 3])
def test_cells_of_high_order(tmp_path, shape, p):
    # SU2 stores the nodes row by row: those of the tensor product, or of its part
    q = range(p + 1)
    grid = {
        "line": [(i, 0, 0) for i in q],
        "triangle": [(i, j, 0) for j in q for i in range(p + 1 - j)],
        "quad": [(i, j, 0) for j in q for i in q],
        "tetra": [(i, j, k) for k in q for j in range(p + 1 - k) for i in range(p + 1 - k - j)],
        "hexahedron": [(i, j, k) for k in q for j in q for i in q],
        "wedge": [(i, j, k) for k in q for j in q for i in range(p + 1 - j)],
        "pyramid": [
            (i + k / 2, j + k / 2, k) for k in q for j in range(p + 1 - k) for i in range(p + 1 - k)
        ],
    }[shape]
    assert len(grid) == _nodes(shape, p)
    number = {"line": 3, "triangle": 5, "quad": 9, "tetra": 10, "hexahedron": 12, "wedge": 13,
              "pyramid": 14}[shape] + 100 * (p - 1)  # fmt: skip
    dim = 2 if shape in ("line", "triangle", "quad") else 3
    rows = "\n".join(" ".join(map(str, x[:dim])) + f" {i}" for i, x in enumerate(grid))
    cell = " ".join(map(str, range(len(grid))))
    (tmp_path / "a.su2").write_text(
        f"NDIME= {dim}\nNELEM= 1\n{number} {cell} 0\nNPOIN= {len(grid)}\n{rows}\nNMARK= 0\n"
    )
    mesh = read(tmp_path / "a.su2")
    if p == 2:
        assert mesh.cells[0].type == DEGREE_TWO[shape][0]
        assert middles(mesh) < 1e-12
    else:
        assert mesh.cells[0].type == shape
        assert mesh.cells[0].nodes[0].tolist() == _corners(shape, p)
        assert any("of degree 3 were read by their corners" in note for note in mesh.notes)
    if shape != "line":
        volume = {"triangle": 0.5, "tetra": 1 / 6, "wedge": 0.5, "pyramid": 1 / 3}.get(shape, 1.0)
        assert float(mesh.cell_measures[0]) == pytest.approx(volume * p**dim)


def test_faults_are_named(tmp_path):
    def refused(old, new, match):
        (tmp_path / "a.su2").write_text(ZONE.format(x="", tag="A").replace(old, new))
        with pytest.raises(InputError, match=match):
            read(tmp_path / "a.su2")

    refused("NELEM= 2", "NELEM= 200", "expected 200 lines of cells")
    refused("9 1 3 4 2 1", "9 1 3 7 2 1", "index 7 at row 0 is outside 0..4")
    refused("9 1 3 4 2 1", "9 1 3", "a quad with 2 nodes")
    refused("9 1 3 4 2 1", "77 1 3 4 2 1", "unknown cell type 77")
    refused("NDIME= 2", "NDIME= 5", "NDIME= 5")
    refused("NPOIN= 5 5", "NPOIN= many", "no number")
    refused("3 0 1", "3 0 12", "outside")
    refused("9 1 3 4 2 1", "9 1 3 4.5 2 1", "a word is no number")
    refused("9 1 3 4 2 1", "9 1 3 4 2 -", "a word is no number")
    refused("2 1 4", "2 - 4", "a word is no number")


def csv(path, mesh, scale, order=None):
    order = torch.arange(mesh.n_points) if order is None else order
    lines = ['"PointID","x","y","Density","Momentum_x","Momentum_y","T_x"']
    for i in order.tolist():
        x, y = mesh.points[i].tolist()
        lines.append(f"{i}, {x!r}, {y!r}, {scale * i}, {scale}, {-i}, 4")
    path.write_text("\n".join(lines) + "\n")


def test_csv_steps_become_a_series(tmp_path):
    mesh = MESHES["channel"]
    for step in (10, 2, 1):
        csv(tmp_path / f"flow_{step:05d}.csv", mesh, float(step), torch.randperm(15))
    series = attach(mesh, str(tmp_path / "flow_*.csv"), dt=0.5)
    assert isinstance(series, Series) and series.times.tolist() == [0.5, 1.0, 5.0]
    assert set(series.point_fields) == {"Density", "Momentum", "T_x"}
    assert series.frame(2).point_fields["Density"].tolist() == [10.0 * i for i in range(15)]
    assert series.frame(1).point_fields["Momentum"][3].tolist() == [2.0, -3.0]
    one = attach(mesh, tmp_path / "flow_00002.csv")
    assert one.point_fields["Density"][1] == 2.0
    write(series, tmp_path / "flow.pvd")
    assert read(tmp_path / "flow.pvd").times.tolist() == [0.5, 1.0, 5.0]


def test_restart_files_are_read_too(tmp_path):
    mesh = MESHES["channel"]
    names = ["x", "y", "Density"]
    table = np.concatenate([mesh.points.numpy(), np.arange(15.0)[:, None]], 1)
    head = np.array([535532, 3, 15, 0, 0], "<i4").tobytes()
    words = b"".join(name.encode().ljust(33, b"\0") for name in names)
    (tmp_path / "r_00001.dat").write_bytes(head + words + table.astype("<f8").tobytes())
    found = attach(mesh, tmp_path / "r_00001.dat")
    assert found.point_fields["Density"].tolist() == list(range(15))
    (tmp_path / "r_00001.dat").write_bytes(head + words + table.astype("<f8").tobytes()[:-9])
    with pytest.raises(InputError, match="ends early"):
        attach(mesh, tmp_path / "r_00001.dat")


def test_results_of_another_mesh_are_refused(tmp_path):
    mesh = MESHES["channel"]
    path = tmp_path / "a_1.csv"
    csv(path, mesh, 1.0)
    with pytest.raises(InputError, match=r"15 rows \(expected 9"):
        attach(MESHES["tangled"] if MESHES["tangled"].n_points == 9 else small(), path)
    csv(path, mesh.replace(points=mesh.points + 0.1), 1.0)
    with pytest.raises(InputError, match="another mesh"):
        attach(mesh, path)
    csv(path, mesh, 1.0, torch.zeros(15, dtype=torch.int64))
    with pytest.raises(InputError, match="PointID"):
        attach(mesh, path)
    with pytest.raises(InputError, match="no file has such a name"):
        attach(mesh, str(tmp_path / "b_*.csv"))
    with pytest.raises(InputError, match="no such file"):
        attach(mesh, tmp_path / "b.csv")
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(InputError, match="row is too short"):
        attach(mesh, path)


def small():
    mesh = MESHES["channel"]
    return mesh.replace(points=mesh.points[:9], cells={"triangle": [[0, 1, 5]]}, boundaries={},
                        regions={}, point_fields={}, cell_fields={})  # fmt: skip
