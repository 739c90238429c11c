"""Gmsh's files: every version, ASCII and binary, quadratic cells in the right order."""

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.geometry.cells import TYPES, cell_faces
from meshsim.io import read, write
from meshsim.io.raw.gmsh import CELLS
from meshsim.series import Series
from tests.helpers import MESHES

V1 = """$NOD
4
10 0 0 0
20 1 0 0
30 0 1 0
40 0 0 1
$ENDNOD
$ELM
2
1 4 5 1 4 10 20 30 40
2 2 3 1 3 10 20 30
$ENDELM
"""


def test_version_one(tmp_path):
    (tmp_path / "a.msh").write_text(V1)
    mesh = read(tmp_path / "a.msh")
    assert [(b.type, b.nodes.tolist()) for b in mesh.cells] == [("tetra", [[0, 1, 2, 3]])]
    assert mesh.regions["5"].tolist() == [0]
    assert len(mesh.boundaries["3"].faces) == 1
    (tmp_path / "b.msh").write_text(V1.replace("10 20 30 40\n", "10 20 30 41\n"))
    with pytest.raises(InputError, match="node that 41 does not exist"):
        read(tmp_path / "b.msh")


def gmsh_box(tmp_path, version: float, binary: bool, order: int = 1):
    """A small box meshed by Gmsh itself, with groups and a field."""
    gmsh = pytest.importorskip("gmsh", reason="needs gmsh (extra `solve`)")
    gmsh.initialize(interruptible=False)
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        gmsh.option.setNumber("Mesh.MshFileVersion", version)
        gmsh.option.setNumber("Mesh.Binary", int(binary))
        box = gmsh.model.occ.addBox(0, 0, 0, 1, 2, 3)
        gmsh.model.occ.synchronize()
        gmsh.model.addPhysicalGroup(3, [box], 7, "solid")
        gmsh.model.addPhysicalGroup(2, [1], 3, "left wall")
        gmsh.option.setNumber("Mesh.MeshSizeMin", 2)
        gmsh.model.mesh.generate(3)
        gmsh.model.mesh.setOrder(order)
        path = tmp_path / f"box{version}{binary}{order}.msh"
        gmsh.write(str(path))
        return path, gmsh.model.mesh.getNodes()[1].reshape(-1, 3)
    finally:
        gmsh.finalize()


@pytest.mark.parametrize("version", [2.2, 4.0, 4.1])
def test_versions_of_gmsh_itself_agree(tmp_path, version):
    text = read(gmsh_box(tmp_path, version, False)[0])
    path, points = gmsh_box(tmp_path, version, version != 4.0)  # Gmsh writes no binary 4.0
    binary = read(path)
    assert len(text.regions["solid"]) == text.n_cells
    assert torch.isclose(text.cell_measures.sum(), torch.tensor(6.0, dtype=torch.float64))
    assert set(text.boundaries) == {"left wall"}
    assert torch.equal(text.cells[0].nodes, binary.cells[0].nodes)
    torch.testing.assert_close(text.points, binary.points, rtol=0, atol=1e-12)
    assert np.ptp(points, axis=0).tolist() == [1, 2, 3]
    area = text.faces.area[text.boundaries["left wall"].faces].norm(dim=1).sum()
    assert float(area) == pytest.approx(6.0)
    data = path.read_bytes()
    for cut in (len(data) // 3, len(data) // 2, len(data) - 30):
        (tmp_path / "cut.msh").write_bytes(data[:cut])
        with pytest.raises(InputError):
            read(tmp_path / "cut.msh")


def middles(mesh) -> float:
    """How far nodes between corners are from the middle of these corners, at most."""
    worst = 0.0
    for block in mesh.cells:
        _, k, n, _ = TYPES[block.type]
        x = mesh.points[block.nodes]
        seen = set()
        for face, between in cell_faces(block.type):
            ring = list(zip(face, face[1:] + face[:1], strict=True)) if len(face) > 2 else [face]
            for ends, node in zip([*ring, face][: len(between)], between, strict=True):
                worst = max(worst, float((x[:, list(ends)].mean(1) - x[:, node]).abs().max()))
                seen.add(node)
        if k - 1 not in seen and k > n:  # the cell's own centre
            worst = max(worst, float((x[:, :n].mean(1) - x[:, k - 1]).abs().max()))
    return worst


def test_quadratic_tetrahedra_of_gmsh_itself(tmp_path):
    mesh = read(gmsh_box(tmp_path, 4.1, True, order=2)[0])
    assert mesh.cells[0].type == "tetra10"
    assert middles(mesh) < 1e-12


@pytest.mark.parametrize("number", [8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19])
def test_quadratic_cells_have_their_nodes_between_their_corners(tmp_path, number):
    gmsh = pytest.importorskip("gmsh", reason="needs gmsh (extra `solve`)")
    gmsh.initialize(interruptible=False)
    try:
        _, dim, order, k, local, corners = gmsh.model.mesh.getElementProperties(number)
    finally:
        gmsh.finalize()
    assert order == 2 and CELLS[number][0] in TYPES
    x = np.zeros((k, 3))
    x[:, :dim] = np.array(local).reshape(k, dim)
    nodes = "\n".join(f"{i + 1} {a} {b} {c}" for i, (a, b, c) in enumerate(x.tolist()))
    cell = " ".join(str(i + 1) for i in range(k))
    (tmp_path / "a.msh").write_text(
        f"$MeshFormat\n2.2 0 8\n$EndMeshFormat\n$Nodes\n{k}\n{nodes}\n$EndNodes\n"
        f"$Elements\n1\n1 {number} 2 0 1 {cell}\n$EndElements\n"
    )
    mesh = read(tmp_path / "a.msh")
    assert mesh.cells[0].type == CELLS[number][0]
    assert TYPES[mesh.cells[0].type][2] == corners
    # a serendipity pyramid's lateral face, and Gmsh's node of it, has no better middle
    assert middles(mesh) < 1e-12


def test_fields_at_several_times_make_a_series(tmp_path):
    data = "".join(
        f'$NodeData\n1\n"T"\n1\n{t}\n3\n{t}\n1\n4\n'
        + "".join(f"{tag} {tag * t}\n" for tag in (40, 30, 20, 10))
        + "$EndNodeData\n"
        for t in (1, 2, 3)
    )
    head = V1.replace("$NOD\n", "$MeshFormat\n2.2 0 8\n$EndMeshFormat\n$Nodes\n")
    head = head.replace("$ENDNOD", "$EndNodes").replace("$ELM", "$Elements")
    head = head.replace("$ENDELM", "$EndElements").replace("1 4 5 1 4 ", "1 4 2 5 1 ")
    (tmp_path / "a.msh").write_text(head.replace("2 2 3 1 3 ", "2 2 2 3 1 ") + data)
    series = read(tmp_path / "a.msh")
    assert isinstance(series, Series) and series.times.tolist() == [1, 2, 3]
    assert series.field("T")[2].tolist() == [30, 60, 90, 120]


def test_cell_values_at_several_times_follow_their_cells(tmp_path):
    mesh = MESHES["channel"]
    order = torch.randperm(mesh.n_cells, generator=torch.Generator().manual_seed(3))
    write(mesh.replace(file_order=order), tmp_path / "a.msh")
    half = mesh.n_cells // 2
    with (tmp_path / "a.msh").open("a") as file:
        for t in (1, 2):
            # a partitioned solver gives a time in several parts
            for part in (range(1, half + 1), range(half + 1, mesh.n_cells + 1)):
                file.write(f'$ElementData\n1\n"c"\n1\n{t}\n3\n{t}\n1\n{len(part)}\n')
                file.write("".join(f"{i} {i * t}\n" for i in part) + "$EndElementData\n")
    series = read(tmp_path / "a.msh")
    place, centre = series.mesh.file_order, torch.empty_like(mesh.cell_centres)
    centre[order] = mesh.cell_centres
    torch.testing.assert_close(series.mesh.cell_centres, centre[place])
    assert torch.equal(series.field("c")[1], 2.0 * (place + 1))


def test_numbers_that_are_not_whole(tmp_path):
    head = "$MeshFormat\n4.1 0 8\n$EndMeshFormat\n$Nodes\n"
    body = "1 3 1 3\n2 1 0 3\n1\n2\n{}\n0 0 0\n1 0 0\n0 1 0\n$EndNodes\n"
    cells = "$Elements\n1 1 1 1\n2 1 2 1\n1 1 2 3\n$EndElements\n"
    (tmp_path / "a.msh").write_text(head + body.format(3) + cells)
    assert read(tmp_path / "a.msh").cells[0].nodes.tolist() == [[0, 1, 2]]
    for word in ("3.5", "nan", "1e300", "three"):
        (tmp_path / "a.msh").write_text(head + body.format(word) + cells)
        with pytest.raises(InputError, match="damaged"):
            read(tmp_path / "a.msh")


def test_parametric_nodes_and_several_groups_of_an_entity(tmp_path):
    (tmp_path / "a.msh").write_text(
        "$MeshFormat\n4.1 0 8\n$EndMeshFormat\n"
        '$PhysicalNames\n2\n2 1 "all"\n2 2 "part"\n$EndPhysicalNames\n'
        "$Entities\n0 0 2 0\n1 0 0 0 1 1 0 2 1 2 0\n2 0 0 0 1 1 0 1 1 0\n$EndEntities\n"
        "$Nodes\n2 4 1 4\n0 1 0 1\n1\n0 0 0\n2 1 1 3\n2\n3\n4\n"
        "1 0 0 0.1 0.1\n1 1 0 0.2 0.2\n0 1 0 0.3 0.3\n$EndNodes\n"
        "$Elements\n2 2 1 2\n2 1 2 1\n1 1 2 3\n2 2 2 1\n2 1 3 4\n$EndElements\n"
    )
    mesh = read(tmp_path / "a.msh")
    assert mesh.points.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]
    assert {k: v.tolist() for k, v in mesh.regions.items()} == {"all": [0, 1], "part": [0]}
