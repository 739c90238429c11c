"""XDMF in the forms that other programs write."""

import h5py
import numpy as np
import pytest

from meshsim.check import InputError
from meshsim.io import read
from meshsim.mesh import Mesh
from meshsim.series import Series

POINTS = (
    '<Geometry GeometryType="XY"><DataItem Dimensions="4 2">0 0 1 0 1 1 0 1</DataItem></Geometry>'
)
QUAD = (
    '<Topology TopologyType="Quadrilateral" NumberOfElements="1">'
    '<DataItem Dimensions="1 4" NumberType="Int">0 1 2 3</DataItem></Topology>'
)


def written(tmp_path, body, name="a.xdmf"):
    path = tmp_path / name
    path.write_text(
        '<?xml version="1.0"?><!DOCTYPE Xdmf SYSTEM "Xdmf.dtd">'
        f"<Xdmf><Domain>{body}</Domain></Xdmf>"
    )
    return path


def test_everything_in_the_xml(tmp_path):
    body = (
        f'<Grid>{QUAD}{POINTS}<Attribute Name="p" Center="Node"><DataItem Dimensions="4 1">'
        '1 2 3 4</DataItem></Attribute><Attribute Name="c" Center="Cell" AttributeType="Vector">'
        '<DataItem Dimensions="1 3" Precision="8">1 2 0</DataItem></Attribute></Grid>'
    )
    mesh = read(written(tmp_path, body, "a.xmf"))
    assert mesh.dim == 2 and mesh.cells[0].nodes.tolist() == [[0, 1, 2, 3]]
    assert mesh.point_fields["p"].tolist() == [1, 2, 3, 4]
    assert mesh.cell_fields["c"].tolist() == [[1, 2, 0]]  # the points have no z to lose


def test_mixed_topology_with_free_sizes(tmp_path):
    stream = "4 0 1 2  3 5 0 1 2 3 4  2 2 0 3  5 0 1 2 3"
    body = (
        '<Grid><Topology TopologyType="Mixed" NumberOfElements="4"><DataItem Dimensions="20" '
        f'NumberType="Int">{stream}</DataItem></Topology>'
        '<Geometry GeometryType="X_Y"><DataItem Dimensions="5">0 1 1 0 0.5</DataItem>'
        '<DataItem Dimensions="5">0 0 1 1 2</DataItem></Geometry></Grid>'
    )
    mesh = read(written(tmp_path, body))
    assert [block.type for block in mesh.cells] == ["triangle", "polygon", "quad"]
    assert mesh.file_order is None
    assert mesh.boundary_points("boundary").tolist() == [0, 3]


def test_regular_grids(tmp_path):
    body = (
        '<Grid><Topology TopologyType="3DCoRectMesh" Dimensions="2 3 4"/>'
        '<Geometry GeometryType="ORIGIN_DXDYDZ"><DataItem Dimensions="3">10 20 30</DataItem>'
        '<DataItem Dimensions="3">1 2 3</DataItem></Geometry></Grid>'
    )
    mesh = read(written(tmp_path, body))
    assert mesh.n_points == 24 and mesh.n_cells == 6 and mesh.cells[0].type == "hexahedron"
    # z, y, x in the file; x runs fastest
    assert mesh.points[1].tolist() == [33, 20, 10]
    assert mesh.cell_measures.tolist() == pytest.approx([6.0] * 6)
    body = (
        '<Grid><Topology TopologyType="2DRectMesh" Dimensions="3 2"/>'
        '<Geometry GeometryType="VXVY"><DataItem Dimensions="2">0 5</DataItem>'
        '<DataItem Dimensions="3">0 1 3</DataItem></Geometry></Grid>'
    )
    mesh = read(written(tmp_path, body))
    assert mesh.points.tolist() == [[0, 0], [5, 0], [0, 1], [5, 1], [0, 3], [5, 3]]
    assert mesh.cell_measures.tolist() == pytest.approx([5, 10])


def test_binary_data_and_hyperslabs(tmp_path):
    np.array([0, 0, 9, 8, 7, 6], ">f4").tofile(tmp_path / "p.bin")
    body = (
        f'<Grid>{QUAD}{POINTS}<Attribute Name="p" Center="Node"><DataItem Dimensions="4" '
        'Format="Binary" Endian="Big" Seek="8">p.bin</DataItem></Attribute>'
        '<Attribute Name="q" Center="Node"><DataItem ItemType="HyperSlab" Dimensions="4">'
        '<DataItem Dimensions="3 1">1 2 4</DataItem><DataItem Dimensions="8">0 1 2 3 4 5 6 7'
        "</DataItem></DataItem></Attribute></Grid>"
    )
    mesh = read(written(tmp_path, body))
    assert mesh.point_fields["p"].tolist() == [9, 8, 7, 6]
    assert mesh.point_fields["q"].tolist() == [1, 3, 5, 7]


def test_included_meshes_and_lists_of_times(tmp_path):
    include = (
        '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" xpointer="xpointer('
        '//Grid[@Name=&quot;steps&quot;]/Grid[1]/*[self::Topology or self::Geometry])"/>'
    )
    grids = "".join(
        f'<Grid>{QUAD + POINTS if t == 0 else include}<Attribute Name="p" Center="Node">'
        f'<DataItem Dimensions="4">{t} 1 1 1</DataItem></Attribute></Grid>'
        for t in range(3)
    )
    head = '<Grid Name="steps" GridType="Collection" CollectionType="Temporal">'
    times = '<Time TimeType="List"><DataItem Dimensions="3">0.5 1 4</DataItem></Time>'
    series = read(written(tmp_path, f"{head}{times}{grids}</Grid>"))
    assert isinstance(series, Series) and series.times.tolist() == [0.5, 1, 4]
    assert series.points is None and not series.later
    assert series.field("p")[:, 0].tolist() == [0, 1, 2]


def test_a_mesh_that_all_steps_share_is_read_once(tmp_path, monkeypatch):
    from meshsim.io import write
    from meshsim.io.raw import xdmf

    mesh = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    write(Series(mesh, range(9), {"p": np.zeros((9, 3))}), tmp_path / "a.xdmf")
    original, places = xdmf.File._hdf, []

    def hdf(self, text, shape):
        places.append(text)
        return original(self, text, shape)

    monkeypatch.setattr(xdmf.File, "_hdf", hdf)
    assert len(read(tmp_path / "a.xdmf", trust=True)) == 9
    assert max(places.count(text) for text in places) < 9  # it was once a step and more


def test_parts_of_a_grid_are_put_together(tmp_path):
    line = (
        '<Topology TopologyType="Polyline" NodesPerElement="2" NumberOfElements="2">'
        '<DataItem Dimensions="2 2" NumberType="Int">0 1 1 2</DataItem></Topology>'
    )
    body = (
        f'<Grid GridType="Collection" CollectionType="Spatial"><Grid Name="wall">{line}{POINTS}'
        f'</Grid><Grid Name="fluid">{QUAD}{POINTS}</Grid></Grid>'
    )
    mesh = read(written(tmp_path, body))
    assert mesh.n_points == 4
    assert len(mesh.boundaries["wall"].faces) == 2 and len(mesh.regions["fluid"]) == 1


def test_a_checkpoint_of_fenics(tmp_path):
    # degrees of freedom are numbered backwards
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["cells"] = [[0, 1, 2], [0, 2, 3]]
        file["points"] = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
        file["dofs"], file["vector"] = [3, 2, 1, 3, 1, 0], [40.0, 30.0, 20.0, 10.0]
        file["offsets"], file["order"] = [0, 3, 6], [0, 1]
    item = '<DataItem Format="HDF" Dimensions="{}">a.h5:{}</DataItem>'
    body = (
        f'<Grid><Topology TopologyType="Triangle">{item.format("2 3", "/cells")}</Topology>'
        f'<Geometry GeometryType="XY">{item.format("4 2", "points")}</Geometry>'
        '<Attribute ItemType="FiniteElementFunction" ElementFamily="CG" ElementDegree="1" '
        'Name="u" Center="Other">'
        + "".join(
            item.format(n, k) for n, k in ((6, "dofs"), (4, "vector"), (3, "offsets"), (2, "order"))
        )
        + "</Attribute></Grid>"
    )
    mesh = read(written(tmp_path, body))
    assert isinstance(mesh, Mesh)
    assert mesh.point_fields["u"].tolist() == [10, 20, 30, 40]


def test_faults_are_named(tmp_path):
    def refused(match, body):
        with pytest.raises(InputError, match=match) as error:
            read(written(tmp_path, body))
        assert "\n" not in str(error.value)

    refused("no Grid", "")
    refused("without Topology", f"<Grid>{POINTS}</Grid>")
    refused("without Geometry", f"<Grid>{QUAD}</Grid>")
    refused("not complete XML", "<Grid>")
    refused("index 9 at row 0", f"<Grid>{QUAD.replace('2 3', '2 9')}{POINTS}</Grid>")
    refused("ends early", f"<Grid>{QUAD.replace('0 1 2 3', '0 1')}{POINTS}</Grid>")
    heavy = QUAD.replace('NumberType="Int">0 1 2 3', 'Format="HDF">none.h5:/a')
    refused("names 'none.h5', which is not there", f"<Grid>{heavy}{POINTS}</Grid>")
    (tmp_path / "none.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    refused("damaged", f"<Grid>{heavy}{POINTS}</Grid>")
    stream = "5 0 1 2 3 99 1"
    mixed = (
        QUAD.replace("Quadrilateral", "Mixed").replace('"1 4"', '"7"').replace("0 1 2 3", stream)
    )
    mixed = mixed.replace('Elements="1"', 'Elements="2"')
    refused("type 99", f"<Grid>{mixed}{POINTS}</Grid>")
