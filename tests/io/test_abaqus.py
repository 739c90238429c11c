"""Abaqus decks: types of elements, sets, surfaces, instances, includes; AVS-UCD beside them."""

import re

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.io import format_of, read
from meshsim.io.raw.abaqus_deck import SHAPES, shape_of
from tests.helpers import MESHES
from tests.io.test_gmsh import middles

TYPES = {
    "line": "B31", "triangle": "S3R", "triangle6": "STRI65", "quad": "CPE4R", "quad8": "S8R5",
    "tetra": "C3D4", "tetra10": "C3D10M", "pyramid": "C3D5", "pyramid13": "C3D13",
    "wedge": "C3D6", "wedge15": "C3D15", "hexahedron": "C3D8I", "hexahedron20": "C3D20R",
}  # fmt: skip
CUBE = [(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1, 2)]
NODES = "*NODE, NSET=all\n" + "".join(
    f"{i + 1}, {x}, {y}, {z}\n" for i, (x, y, z) in enumerate(CUBE)
)
BRICKS = "*Element, type=C3D8, elset=Solid\n1, 1,2,5,4, 7,8,11,10\n2, 2,3,6,5, 8,9,12,11\n"


def faces(mesh):
    return {name: len(part.faces) for name, part in mesh.boundaries.items()}


def regions(mesh):
    return {name: rows.tolist() for name, rows in mesh.regions.items()}


@pytest.mark.parametrize("name", ["mixed_solid", "quadratic3d", "channel", "quadratic2d", "fins"])
def test_what_was_written_comes_back(name, tmp_path):
    mesh = MESHES[name]
    points = np.pad(mesh.points.numpy(), ((0, 0), (0, 3 - mesh.dim)))
    text = "*Heading\n a mesh\n** comment\n*Node\n"
    text += "".join(
        f"{i + 5:7d}, {x!r}, {y!r}, {z!r}\n" for i, (x, y, z) in enumerate(points.tolist())
    )
    at = 1
    for block in mesh.cells:
        text += f"*ELEMENT, TYPE={TYPES[block.type]}, ELSET=E{block.type}\n"
        for row in block.nodes.tolist():
            words = [str(at), *(str(i + 5) for i in row)]
            lines = [", ".join(words[i : i + 11]) for i in range(0, len(words), 11)]
            text += ",\n".join(lines) + "\n"
            at += 1
    (tmp_path / "a.inp").write_text(text)
    back = read(tmp_path / "a.inp")
    assert torch.equal(back.points, mesh.points)
    assert [(b.type, b.nodes.tolist()) for b in back.cells] == [
        (b.type, b.nodes.tolist()) for b in mesh.cells
    ]
    assert {k: len(v) for k, v in back.regions.items()} == {
        f"E{b.type}": len(b) for b in mesh.cells
    }


def test_types_by_their_names():
    known = {
        "C3D8R": "hexahedron", "C3D10MH": "tetra10", "DC3D20": "hexahedron20", "AC3D4": "tetra",
        "COH3D6": "wedge", "SC8R": "hexahedron", "C3D27": "hexahedron27", "C3D15V": "wedge18",
        "CPS4R": "quad", "CAX8RH": "quad8", "CPE6M": "triangle6", "DC2D3": "triangle",
        "CPEG4": "quad", "COH2D4": "quad", "S4R5": "quad", "S9R5": "quad9", "STRI3": "triangle",
        "R3D4": "quad", "M3D8R": "quad8", "SFM3D3": "triangle", "DS4": "quad",
        "T3D2": "line", "T2D3": "line3", "B22": "line3", "B33": "line", "PIPE31": "line",
        "SAX1": "line", "SAX2": "line3", "R2D2": "line", "RAX2": "line", "DC1D2": "line",
        "MASS": "", "SPRINGA": "", "CONN3D2": "", "DASHPOT1": "", "ROTARYI": "",
    }  # fmt: skip
    assert {kind: shape_of(kind)[0] for kind in known} == known


def test_nodes_of_bricks_of_27(tmp_path):
    # the manual: the centre, then the middles of faces 1 to 6
    corner = [(0, 0), (2, 0), (2, 2), (0, 2)]
    between = [(1, 0), (2, 1), (1, 2), (0, 1)]
    x = [(*p, z) for z in (0, 2) for p in corner] + [(*p, z) for z in (0, 2) for p in between]
    x += [(*p, 1) for p in corner] + [(1, 1, 1), (1, 1, 0), (1, 1, 2)]
    x += [(1, 0, 1), (2, 1, 1), (1, 2, 1), (0, 1, 1)]
    text = "*NODE\n" + "".join(f"{i + 1},{a},{b},{c}\n" for i, (a, b, c) in enumerate(x))
    words = [str(i) for i in range(1, 28)]
    text += "*ELEMENT,TYPE=C3D27\n1," + ",".join(words[:15]) + ",\n" + ",".join(words[15:]) + "\n"
    (tmp_path / "a.inp").write_text(text)
    mesh = read(tmp_path / "a.inp")
    assert middles(mesh) == 0 and mesh.cells[0].type == "hexahedron27"
    assert SHAPES[1, 3][1] == [0, 2, 1]  # the node between stands second
    assert float(mesh.cell_measures[0]) == pytest.approx(8)


def test_sets_and_surfaces(tmp_path):
    text = NODES + BRICKS + (
        "*ELSET, ELSET=both, GENERATE\n1, 2, 1\n*ELSET, ELSET=again\nboth,\n"
        "*ELSET, ELSET=right\n2,\n"
        "*ELSET, ELSET=_helper, INTERNAL\n1\n"
        "*NSET, NSET=Left\n1, 4, 7,\n10\n*NSET, NSET=bottom, GENERATE\n1, 6\n*NSET, NSET=tip\n12\n"
        "*SURFACE, NAME=out let, TYPE=ELEMENT\nright, S4\n*SURFACE, NAME=Top\n1, S2\n2, S2\n"
        "*SURFACE, TYPE=NODE, NAME=by nodes\nLeft, 1.\n*SURFACE, NAME=vague\nSolid,\n"
    )  # fmt: skip
    (tmp_path / "a.inp").write_text(text)
    mesh = read(tmp_path / "a.inp")
    assert regions(mesh) == {"Solid": [0, 1], "both": [0, 1], "again": [0, 1], "right": [1]}
    assert faces(mesh) == {"Left": 1, "bottom": 2, "by nodes": 1, "out let": 1, "Top": 2}
    area = mesh.faces.area
    assert area[mesh.boundaries["out let"].faces].tolist() == [[1, 0, 0]]
    assert area[mesh.boundaries["Top"].faces].tolist() == [[0, 0, 1], [0, 0, 1]]
    notes = " | ".join(mesh.notes)
    assert "tip" in notes and "'vague'" in notes


@pytest.mark.parametrize(
    ("kind", "n", "normals"),
    [
        ("C3D8", 8, [[0, 0, -1], [0, 0, 1], [0, -1, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0]]),
        ("C3D6", 6, [[0, 0, -1], [0, 0, 1], [0, -1, 0], [1, 1, 0], [-1, 0, 0]]),
        ("C3D4", 4, [[0, 0, -1], [0, -1, 0], [1, 1, 1], [-1, 0, 0]]),
    ],
)
def test_faces_are_numbered_as_in_the_manual(kind, n, normals, tmp_path):
    ring = [(0, 0), (1, 0), (1, 1), (0, 1)] if n == 8 else [(0, 0), (1, 0), (0, 1)]
    x = [(*p, z) for z in (0, 1) for p in ring][:n]
    text = "*NODE\n" + "".join(f"{i + 1},{a},{b},{c}\n" for i, (a, b, c) in enumerate(x))
    text += f"*ELEMENT,TYPE={kind}\n1," + ",".join(str(i + 1) for i in range(n)) + "\n"
    for i in range(len(normals)):
        text += f"*SURFACE,NAME=S{i + 1}\n1,S{i + 1}\n"
    (tmp_path / "a.inp").write_text(text)
    mesh = read(tmp_path / "a.inp")
    for i, normal in enumerate(normals):
        area = mesh.faces.area[mesh.boundaries[f"S{i + 1}"].faces]
        want = torch.tensor([normal], dtype=area.dtype)
        torch.testing.assert_close(area / area.norm(), want / want.norm())


ASSEMBLY = (
    f"*Part, name=Block\n{NODES}{BRICKS}*Elset, elset=first\n1\n*Nset, nset=Left\n1, 4, 7, 10\n"
    "*Surface, name=Right\n2, S4\n*End Part\n*Assembly, name=A\n"
    "*Instance, name=One, part=Block\n*End Instance\n"
    "*Instance, name=Two, part=BLOCK\n0., 0., 5.\n0, 0, 0, 0, 0, 1, 90.\n*End Instance\n"
    "*Node\n 1, 9., 9., 9.\n*Elset, elset=some, instance=One\n2\n"
    "*Elset, elset=some, instance=Two\n1\n"
    "*Nset, nset=held, instance=Two\n1, 4, 7, 10\n*Surface, name=Outlet\nTwo.first, S6\n"
    "*End Assembly\n"
)  # fmt: skip


def test_instances_are_moved_and_turned(tmp_path):
    (tmp_path / "a.inp").write_text(ASSEMBLY)
    mesh = read(tmp_path / "a.inp")
    x = torch.tensor(CUBE, dtype=torch.float64)
    turned = torch.stack([-x[:, 1], x[:, 0], x[:, 2] + 5], 1)
    torch.testing.assert_close(mesh.points, torch.cat([x, turned]))
    assert regions(mesh) == {
        "One": [0, 1], "Two": [2, 3], "One.Solid": [0, 1], "Two.Solid": [2, 3],
        "One.first": [0], "Two.first": [2], "some": [1, 2],
    }  # fmt: skip
    assert faces(mesh) == {"One.Left": 1, "Two.Left": 1, "held": 1, "One.Right": 1,
                           "Two.Right": 1, "Outlet": 1}  # fmt: skip
    area = mesh.faces.area
    torch.testing.assert_close(
        area[mesh.boundaries["Two.Right"].faces][0].tolist(), [0.0, 1.0, 0.0]
    )
    torch.testing.assert_close(area[mesh.boundaries["Outlet"].faces][0].tolist(), [0.0, -1.0, 0.0])
    assert any("1 nodes of the assembly" in note for note in mesh.notes)


def test_systems_of_nodes(tmp_path):
    text = "*SYSTEM\n1,0,0, 1,1,0\n*NODE\n1, 1,0,0\n2, 0,1,0\n*SYSTEM\n*NODE, SYSTEM=C\n3, 2,90,1\n"
    (tmp_path / "a.inp").write_text(text + "*ELEMENT, TYPE=S3\n1, 1,2,3\n")
    want = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 2, 1]], dtype=torch.float64)
    torch.testing.assert_close(read(tmp_path / "a.inp").points, want)


def test_includes_stay_in_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/n.inc").write_text(NODES)
    (tmp_path / "n.inc").write_text(NODES)
    path = tmp_path / "in/a.inp"
    path.write_text("*INCLUDE, INPUT=n.inc\n" + BRICKS)
    assert read(path).n_points == 12
    for name, why in (("../n.inc", "outside the folder"), ("none.inc", "not there")):
        path.write_text(f"*INCLUDE, INPUT={name}\n" + BRICKS)
        with pytest.raises(InputError, match=why):
            read(path)
    path.write_text("*INCLUDE, INPUT=b.inp\n")
    (tmp_path / "in/b.inp").write_text("*INCLUDE, INPUT=b.inp\n")
    with pytest.raises(InputError, match="circle"):
        read(path)


def test_faults_are_named(tmp_path):
    def refused(text, match):
        (tmp_path / "a.inp").write_text(text)
        with pytest.raises(InputError, match=match) as error:
            read(tmp_path / "a.inp")
        assert "\n" not in str(error.value)

    refused(NODES + BRICKS.replace("11,10", "11,13"), "names node 13 does not exist")
    refused(NODES, "holds no elements")
    refused(BRICKS, "holds no nodes")
    refused("$title\nwing\n*CUT AND\n=points\n1.\n", "AVS-UCD")
    refused(NODES + BRICKS[:-6], "expected 9 an element")
    refused(NODES.replace("2, 0", "b, 0") + BRICKS, "no number")
    refused(NODES + "*ELEMENT, TYPE=MASS\n1, 1\n", "1 elements of type MASS cannot be read")
    refused(NODES + "*NGEN\n1, 12, 1\n" + BRICKS, "NGEN: is not supported")
    refused(ASSEMBLY.replace("part=BLOCK", "part=Other"), "no part 'OTHER'")
    refused(NODES + "*ELEMENT\n1,1,2,3\n", "has no TYPE")


SIX = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
UCD = "# made by hand\n6 4 {nd} {cd} 0\n" + "".join(
    f"{i + 1} {x} {y} 0\n" for i, (x, y) in enumerate(SIX)
) + "1 7 quad 1 2 5 4\n2 8 tri 2 3 5\n3 8 tri 3 6 5\n4 3 line 1 4\n"  # fmt: skip


def test_ucd(tmp_path):
    values = "2 1 2\nT, K\nU, m/s\n" + "".join(f"{7 - i} {i} {i} {-i}\n" for i in range(1, 7))
    values += "1 1\nk, none\n" + "".join(f"{i} {i * 0.5}\n" for i in range(1, 5))
    (tmp_path / "a.inp").write_text(UCD.format(nd=3, cd=1) + values)
    assert format_of(tmp_path / "a.inp").name == "avs"
    mesh = read(tmp_path / "a.inp")
    assert regions(mesh) == {"material 7": [0], "material 8": [1, 2]}
    assert faces(mesh) == {"boundary 3": 1}
    assert mesh.point_fields["T"].tolist() == [6, 5, 4, 3, 2, 1]
    assert mesh.point_fields["U"][0].tolist() == [6, -6]
    assert mesh.cell_fields["k"].tolist() == [0.5, 1.0, 1.5]
    (tmp_path / "a.inp").write_text(UCD.format(nd=3, cd=1) + values[:-9])
    with pytest.raises(InputError, match="ends early"):
        read(tmp_path / "a.inp")
    for old, new, why in (("2 3 5\n", "2 3 9\n", "node 9"), ("quad", "quux", "unknown type"),
                          ("1 2 5 4", "1 2 5", "3 nodes"),
                          ("6 4 ", "60 4 ", "ends early")):  # fmt: skip
        (tmp_path / "a.inp").write_text(UCD.format(nd=0, cd=0).replace(old, new))
        with pytest.raises(InputError, match=why):
            read(tmp_path / "a.inp")


@pytest.mark.parametrize("upside_down", [False, True])
def test_ucd_solids_from_above_or_below(upside_down, tmp_path):
    mesh = MESHES["mixed_solid"]
    words = {"hexahedron": "hex", "wedge": "prism", "pyramid": "pyr", "tetra": "tet"}
    turn = {"hexahedron": [4, 5, 6, 7, 0, 1, 2, 3], "wedge": [3, 4, 5, 0, 1, 2],
            "pyramid": [4, 0, 1, 2, 3], "tetra": [0, 1, 3, 2]}  # fmt: skip
    text = f"{mesh.n_points} {mesh.n_cells} 0 0 0\n"
    text += "".join(f"{i} {x!r} {y!r} {z!r}\n" for i, (x, y, z) in enumerate(mesh.points.tolist()))
    at = 0
    for block in mesh.cells:
        for row in block.nodes.tolist():
            row = [row[i] for i in turn[block.type]] if upside_down else row
            text += f"{at} 1 {words[block.type]} " + " ".join(map(str, row)) + "\n"
            at += 1
    (tmp_path / "a.avs").write_text(text)
    back = read(tmp_path / "a.avs")
    torch.testing.assert_close(back.cell_measures.sum(), mesh.cell_measures.sum())
    assert bool((back.cell_measures > 0).all())


def test_files_of_others(real_data):
    folder = real_data / "SteveDoyle2__pyNastran/pyNastran/converters/abaqus/models"
    for path in sorted(folder.glob("*.inp")):
        text = path.read_text("latin-1")
        body = re.search(r"^\*node\b(?! *[pfo]).*?\n((?:[^*]|\*\*).*?)^\*(?!\*)", text,
                         re.M | re.S | re.I)  # fmt: skip
        nodes = len(re.findall(r"^ *\d+ *,", body[1], re.M))
        mesh = read(path)
        if not re.search(r"^\*(part|system)", text, re.M | re.I):
            assert mesh.n_points == nodes, path.name
        assert mesh.regions and bool((mesh.cell_measures > 0).all())
    block = read(folder / "single_block.inp")
    assert block.n_points == 16 and block.n_cells == 2
    deal = real_data / "dealii__dealii/tests/grid/grids"
    for path in [*deal.glob("*.inp"), deal.parent / "grid_in/2d.inp",
                 real_data / "dealii__dealii/tests/codim_one/grids/sphere_4.inp"]:  # fmt: skip
        text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M)
        mesh = read(path)
        assert mesh.n_points == int(text.split()[0])
        solids = len(re.findall(r"\b(quad|hex)\b", text))
        assert mesh.n_cells == solids and bool((mesh.cell_measures > 0).all())
    for path in sorted(deal.glob("abaqus/2d/*.inp")):
        assert read(path).n_cells and all(read(path).boundaries.values())
    with pytest.raises(InputError, match="holds no nodes"):
        read(folder.parents[1] / "panair/M100/M100.inp")


def test_binary_ucd_as_vtk_reads_it(real_data):
    vtk = pytest.importorskip("vtk")
    pyvista = pytest.importorskip("pyvista")
    path = real_data / "pyvista__vtk-data/Data/cellsnd.bin.inp"
    reader = vtk.vtkAVSucdReader()
    reader.SetFileName(str(path))
    reader.SetByteOrderToLittleEndian()
    reader.Update()
    grid = pyvista.wrap(reader.GetOutput())
    mesh = read(path)
    np.testing.assert_array_equal(mesh.points.numpy(), grid.points[:, :2])
    found = {b.type: b.nodes.tolist() for b in mesh.cells}
    assert found == {"triangle": grid.cells_dict[5].tolist(), "quad": grid.cells_dict[9].tolist()}
    np.testing.assert_array_equal(mesh.point_fields["temperature"].numpy(),
                                  grid.point_data["temperature"])  # fmt: skip
    order = np.arange(12) if mesh.file_order is None else mesh.file_order.numpy()
    np.testing.assert_array_equal(mesh.cell_fields["pressure"].numpy(),
                                  grid.cell_data["pressure"][order])  # fmt: skip
    path_bytes = path.read_bytes()
    assert len(path_bytes) == 4833
