"""What `read` makes of what files hold."""

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.io import read, write
from meshsim.io.build import Built
from meshsim.mesh import Mesh
from meshsim.series import Series
from tests.helpers import MESHES

SQUARE = "4 0 0 {z}\n5 1 0 {z}\n6 1 1 {z}\n9 0 1 {z}"
MSH = """$MeshFormat
2.2 0 8
$EndMeshFormat
$PhysicalNames
3
1 1 "left"
2 7 "plate"
0 3 "corner"
$EndPhysicalNames
$Nodes
4
{nodes}
$EndNodes
$Elements
6
1 15 2 3 1 4
2 2 2 7 1 4 5 6
3 1 2 1 1 9 4
4 3 2 0 2 4 5 6 9
5 2 2 7 1 4 6 9
6 1 2 0 5 4 6
$EndElements
$NodeData
1
"speed"
1
0
3
0
3
4
4 1 2 {w}
5 1 2 0
6 1 2 0
9 3 4 0
$EndNodeData
"""


def msh(tmp_path, z="0", w="0"):
    path = tmp_path / "a.msh"
    path.write_text(MSH.format(nodes=SQUARE.format(z=z), w=w))
    return path


def test_dimensions_groups_and_order_of_cells(tmp_path):
    mesh = read(msh(tmp_path))
    assert [(block.type, len(block)) for block in mesh.cells] == [("triangle", 2), ("quad", 1)]
    # the file has triangle, quad, triangle (nodes 4, 5, 6, 9 are points 0, 1, 2, 3)
    assert mesh.file_order.tolist() == [0, 2, 1]
    assert mesh.cells[0].nodes.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.regions["plate"].tolist() == [0, 1]
    assert set(mesh.boundaries) == {"left", "boundary"}  # no physical group
    (left,) = mesh.boundaries["left"].faces.tolist()
    of = mesh.faces.offsets
    assert sorted(mesh.faces.nodes[of[left] : of[left + 1]].tolist()) == [0, 3]
    assert any("1 cells of dimension below 1" in note for note in mesh.notes)


def test_planar_meshes_lose_the_third_coordinate_and_get_it_back(tmp_path):
    mesh = read(msh(tmp_path, z="2.5"))
    assert mesh.dim == 2 and mesh.z == 2.5 and mesh.flattened == {"speed"}
    assert mesh.point_fields["speed"].tolist() == [[1, 2], [1, 2], [1, 2], [3, 4]]
    whole = read(msh(tmp_path, z="2.5"), planar=False)
    assert whole.dim == 3 and whole.point_fields["speed"].shape == (4, 3)
    write(mesh, tmp_path / "b.vtu")
    raw = read(tmp_path / "b.vtu", planar=False)
    assert torch.equal(raw.points, whole.points)
    assert torch.equal(raw.point_fields["speed"], whole.point_fields["speed"])
    # a vector with a third component keeps all three
    moving = read(msh(tmp_path, w="0.25"))
    assert moving.dim == 2 and moving.point_fields["speed"].shape == (4, 3)
    assert moving.flattened == frozenset()


def test_surfaces_stay_three_dimensional_and_other_planes_are_told(tmp_path):
    write(MESHES["channel"], tmp_path / "a.off")
    assert read(tmp_path / "a.off").dim == 3
    points = MESHES["channel"].points
    standing = torch.stack([points[:, 0], torch.full((len(points),), 3.0), points[:, 1]], 1)
    Mesh(standing, MESHES["channel"].cells)
    path = tmp_path / "b.msh"
    path.write_text(MSH.format(nodes="4 0 3 0\n5 1 3 0\n6 1 3 1\n9 0 3 1", w="0"), encoding="utf-8")
    mesh = read(path)
    assert mesh.dim == 3
    assert any("x-z plane" in note for note in mesh.notes)


TETRA = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])


def tree(**more):
    block = {"type": "tetra", "nodes": np.array([[0, 1, 2, 3]])}
    return {"points": TETRA, "blocks": [block], "point_fields": {}, **more}


def refused(match, **more):
    with pytest.raises(InputError, match=match):
        Built(tree(**more), False, True)


def test_every_index_and_length_is_checked():
    bad = {"type": "tetra", "nodes": np.array([[0, 1, 2, 3], [0, 1, 2, 4]])}
    refused(r"index 4 at row 1 is outside 0..3 \(4 points\)", blocks=[bad])
    low = {"type": "triangle", "nodes": np.array([[0, 1, -1]])}
    refused("index -1", blocks=[*tree()["blocks"], low])
    refused("no cells", blocks=[])
    refused("no points", points=np.zeros((0, 3)))
    refused("not finite", points=TETRA * np.array([1, np.nan, 1]))
    refused("shape", points=np.zeros((4, 6)))
    refused("rows", cell_fields={"p": np.zeros(3)})
    refused("expected 4 rows", point_fields={"p": np.zeros(3)})
    refused("outside", groups={"a": {"cells": np.array([3])}})
    faces = {"sizes": np.array([3]), "nodes": np.array([0, 1, 9]), "fields": {}}
    refused("index 9 is outside", boundaries={"wall": faces})
    refused("outside", boundaries={"wall": {"points": np.array([0, 7])}})
    faces = {"sizes": np.array([3]), "nodes": np.array([0, 1, 2]), "fields": {"q": np.zeros(2)}}
    refused("'q' has 2 rows", boundaries={"wall": faces})
    refused("file_order", file_order=np.array([1]))


def test_boundaries_given_by_points_are_the_outer_faces_among_them():
    built = Built(tree(boundaries={"floor": {"points": np.array([0, 1, 2]), "kind": "BCWall"}}),
                  False, True)  # fmt: skip
    boundary = built.mesh.boundaries["floor"]
    assert boundary.kind == "BCWall" and len(boundary.faces) == 1
    assert built.mesh.boundary_points("floor").tolist() == [0, 1, 2]
    built = Built(tree(boundaries={"edge": {"points": np.array([0, 1])}}), False, True)
    assert not built.mesh.boundaries and "no outer face" in built.mesh.notes[0]


def test_fields_of_lower_cells_become_fields_of_the_boundary():
    blocks = [
        {"type": "triangle", "nodes": np.array([[0, 1, 2], [0, 1, 3]])},
        *tree()["blocks"],
    ]
    found = Built(tree(blocks=blocks, cell_fields={"p": np.array([5.0, 6.0, 7.0])}), False, True)
    mesh = found.mesh
    assert mesh.cell_fields["p"].tolist() == [7.0]
    assert mesh.boundaries["boundary"].fields["p"].tolist() == [5.0, 6.0]


def test_one_time_of_a_series(tmp_path):
    mesh = MESHES["channel"]
    values = torch.arange(3 * mesh.n_points).reshape(3, -1).double()
    write(Series(mesh, [0.0, 0.5, 2.0], {"s": values}), tmp_path / "a.pvd")
    for time, row in ((0.5, 1), ("first", 0), ("last", 2), ("0.5", 1)):
        assert torch.equal(read(tmp_path / "a.pvd", time=time).point_fields["s"], values[row])
    with pytest.raises(InputError, match=r"no time 0\.7 .*nearest 0\.5"):
        read(tmp_path / "a.pvd", time=0.7)
    for wrong in ("soon", "nan", float("nan"), float("inf"), 10**400):
        with pytest.raises(InputError, match="expected a number, 'first' or 'last'") as error:
            read(tmp_path / "a.pvd", time=wrong)
        assert "\n" not in str(error.value)
    write(mesh, tmp_path / "a.vtu")
    with pytest.raises(InputError, match="no series"):
        read(tmp_path / "a.vtu", time=0.5)


def test_frames_are_read_when_asked_for_and_faults_name_the_step(tmp_path):
    mesh = MESHES["channel"]
    series = Series(mesh, [0.0, 1.0, 2.0, 3.0], {"s": torch.rand(4, mesh.n_points)})
    write(series, tmp_path / "a.pvd")
    back = read(tmp_path / "a.pvd")
    assert torch.equal(back.frame(1).point_fields["s"], series.frame(1).point_fields["s"])
    frames = sorted((tmp_path / "a_frames").iterdir())
    frames[2].write_bytes(frames[2].read_bytes()[:900])
    assert torch.equal(back.frame(3).point_fields["s"], series.frame(3).point_fields["s"])
    with pytest.raises(InputError, match=r"a\.pvd"):
        back.frame(2)
    write(MESHES["polygons"], tmp_path / "b.vtu")
    frames[2].write_bytes((tmp_path / "b.vtu").read_bytes())
    with pytest.raises(InputError, match="cells differ"):
        back.frame(2)


def test_a_vector_that_leaves_the_plane_later_is_told(tmp_path):
    mesh = MESHES["channel"]
    velocity = np.zeros((4, mesh.n_points, 3))
    velocity[2, 0, 2] = 1.0
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["points"] = np.pad(mesh.points.numpy(), ((0, 0), (0, 1)))
        file["cells"] = mesh.cells[1].nodes.numpy()
        file["v"] = velocity
    grids = "".join(
        f'<Grid><Time Value="{t}"/><Topology TopologyType="Quadrilateral" NumberOfElements="5">'
        '<DataItem Format="HDF" Dimensions="5 4">a.h5:/cells</DataItem></Topology>'
        '<Geometry GeometryType="XYZ"><DataItem Format="HDF" Dimensions="15 3">a.h5:/points'
        '</DataItem></Geometry><Attribute Name="v" Center="Node" AttributeType="Vector">'
        f'<DataItem ItemType="HyperSlab" Dimensions="15 3"><DataItem Dimensions="3 3">{t} 0 0 '
        '1 1 1 1 15 3</DataItem><DataItem Format="HDF" Dimensions="4 15 3">a.h5:/v</DataItem>'
        "</DataItem></Attribute></Grid>"
        for t in range(4)
    )
    (tmp_path / "a.xdmf").write_text(
        '<Xdmf><Domain><Grid GridType="Collection" CollectionType="Temporal">'
        f"{grids}</Grid></Domain></Xdmf>"
    )
    series = read(tmp_path / "a.xdmf")
    assert series.mesh.dim == 2 and series.mesh.flattened == {"v"}
    assert series.frame(1).point_fields["v"].shape == (15, 2)
    with pytest.raises(InputError, match=r"step 2.*planar=False"):
        series.frame(2)
    assert read(tmp_path / "a.xdmf", planar=False).frame(2).point_fields["v"][0, 2] == 1.0
