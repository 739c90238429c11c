"""Which reader opened a file, several times in one file, surfaces of scenes, and hostile input."""

import json

import h5py
import numpy as np
import pytest
import torch
import trimesh

from meshsim.check import InputError
from meshsim.inspect import describe
from meshsim.io import child, format_of, guard, read, write
from meshsim.io.formats import FALLBACKS, Format
from meshsim.mesh import Mesh, MeshSource

SQUARE = Mesh(
    [[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]], {"quad": [[0, 1, 2, 3]]}, {"p": [0.0, 1, 2, 3]}
)
BOMB = (
    '<?xml version="1.0"?>\n<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;">]>\n'
)


def test_the_source_is_kept_and_told(tmp_path):
    path = tmp_path / "a.vtu"
    write(SQUARE, path)
    for options in ({}, {"isolate": False}, {"trust": True}):
        mesh = read(path, **options)
        assert mesh.source == MeshSource(str(path), "vtu", "vtk")
        assert mesh.with_fields(point={"q": mesh.point_fields["p"]}).source == mesh.source
        assert mesh.replace(points=mesh.points + 1, cells=mesh.cells).source == mesh.source
        assert mesh.to(dtype=torch.float32).source == mesh.source
        assert describe(mesh)["reader"] == "vtk" and describe(mesh)["format"] == "vtu"
    assert SQUARE.source is None


def test_the_next_reader_is_tried_and_named(tmp_path, monkeypatch):
    """A reader that fails, and one that finds no cells; the message is the first reader's."""
    path = tmp_path / "a.off"
    path.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    meshio = Format("vtu", "meshio", "other", {"kind": "vtu"})
    ours = Format("off", "meshsim", "surfaces", {"kind": "off"}, surface=True)
    for first in ("obj", "stl"):  # no cells in it; not of that kind
        form = Format("off", "first", "surfaces", {"kind": first}, surface=True)
        monkeypatch.setattr("meshsim.io.reading.format_of", lambda _, form=form: form)
        monkeypatch.setitem(FALLBACKS, "off", (meshio, ours))
        mesh = read(path)
        assert mesh.n_points == 3 and mesh.source.reader == "meshsim"
        monkeypatch.setitem(FALLBACKS, "off", ())
        with pytest.raises(InputError) as alone:
            read(path)
        monkeypatch.setitem(FALLBACKS, "off", (meshio,))
        with pytest.raises(InputError) as both:
            read(path)
        assert str(both.value) == str(alone.value)


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), IndexError("list index out of range"), AssertionError(), TypeError("'None'"),
     ValueError("cannot reshape array of size 5 into shape (3,)"), AttributeError("no attribute"),
     ZeroDivisionError("division by zero"), RuntimeError("dictionary changed size")],
)  # fmt: skip
def test_no_text_of_pythons_reaches_the_user(error):
    said = child.told(error)
    assert said == child.UNKNOWN and "Error" not in said


@pytest.mark.parametrize("suffix", ["pvd", "xdmf", "vtu", "vtm", "pvtu"])
def test_entities_are_refused(tmp_path, suffix):
    root = {"xdmf": "Xdmf", "pvd": "Collection", "vtm": "vtkMultiBlockDataSet",
            "vtu": "UnstructuredGrid", "pvtu": "PUnstructuredGrid"}[suffix]  # fmt: skip
    inner = "<Xdmf>&c;</Xdmf>" if suffix == "xdmf" else f'<VTKFile type="{root}">&c;</VTKFile>'
    path = tmp_path / f"a.{suffix}"
    for data in ((BOMB + inner).encode(), (BOMB + inner).encode("utf-16")):
        path.write_bytes(data)
        with pytest.raises(InputError) as error:
            read(path)
        assert "\n" not in str(error.value)
        assert "entities" in str(error.value) or data[:2] == b"\xff\xfe"


@pytest.mark.parametrize("where", ["../x.vtu", "../../x.vtu", "sub/../../x.vtu", "absolute"])
def test_no_path_leaves_the_folder(tmp_path, where):
    folder = tmp_path / "in"
    folder.mkdir()
    write(SQUARE, tmp_path / "x.vtu")
    name = str(tmp_path / "x.vtu") if where == "absolute" else where
    texts = {
        "a.pvd": '<VTKFile type="Collection"><Collection>'
        f'<DataSet timestep="0" file="{name}"/></Collection></VTKFile>',
        "a.vtm": '<VTKFile type="vtkMultiBlockDataSet" version="1.0"><vtkMultiBlockDataSet>'
        f'<DataSet index="0" file="{name}"/></vtkMultiBlockDataSet></VTKFile>',
        "a.pvtu": f'<VTKFile type="PUnstructuredGrid"><PUnstructuredGrid><Piece Source="{name}"/>'
        "</PUnstructuredGrid></VTKFile>",
        "a.vtu.series": json.dumps({"files": [{"name": name, "time": 0.0}]}),
        "a.xdmf": '<Xdmf><Domain><Grid><Topology TopologyType="Triangle" NumberOfElements="1">'
        f'<DataItem Format="HDF" Dimensions="1 3">{name}:/c</DataItem></Topology>'
        '<Geometry><DataItem Dimensions="3 3">0 0 0 1 0 0 0 1 0</DataItem></Geometry>'
        "</Grid></Domain></Xdmf>",
    }
    for file, text in texts.items():
        (folder / file).write_text(text)
        with pytest.raises(InputError, match="outside its folder") as error:
            read(folder / file)
        assert name in str(error.value)


def test_an_absolute_name_inside_and_a_link_are_fine(tmp_path):
    write(SQUARE, tmp_path / "x.vtu")
    text = '<VTKFile type="Collection"><Collection>'
    text += '<DataSet timestep="0" file="{}"/></Collection></VTKFile>'
    (tmp_path / "a.pvd").write_text(text.format(tmp_path / "x.vtu"))
    assert read(tmp_path / "a.pvd").mesh.n_points == 4
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link.vtu").symlink_to(tmp_path / "x.vtu")
    assert read(tmp_path / "other" / "link.vtu").n_points == 4


def test_series_of_paraview(tmp_path):
    for t in range(3):
        for suffix in ("vtu", "vtk"):
            write(SQUARE.with_fields(point={"p": [t, 1.0, 2, 3]}), tmp_path / f"a_{t}.{suffix}")
    for suffix in ("vtu", "vtk"):
        files = [{"name": f"a_{t}.{suffix}", "time": 0.5 * t} for t in (2, 0, 1)]
        path = tmp_path / f"a.{suffix}.series"
        path.write_text(json.dumps({"file-series-version": "1.0", "files": files}))
        series = read(path)
        assert series.times.tolist() == [0, 0.5, 1]
        assert [float(series.frame(t).point_fields["p"][0]) for t in range(3)] == [0, 1, 2]
    path.write_text('{"files": [{"name": 3}]}')
    with pytest.raises(InputError, match="no list of files"):
        read(path)


def test_several_times_in_one_xml_file(tmp_path):
    """One array a time, as VTK's time-aware XML files have it."""
    arrays = "".join(
        f'<DataArray type="Float64" Name="p" TimeStep="{i}" format="ascii">{t} 1 2 3</DataArray>'
        for i, t in enumerate((0.0, 0.25, 1.0))
    )
    (tmp_path / "a.vtu").write_text(
        '<VTKFile type="UnstructuredGrid" version="0.1" byte_order="LittleEndian">'
        '<UnstructuredGrid TimeValues="0 0.25 1"><Piece NumberOfPoints="4" NumberOfCells="1">'
        f"<PointData>{arrays}</PointData><Points>"
        '<DataArray type="Float64" NumberOfComponents="3" format="ascii">'
        "0 0 0 1 0 0 0 1 0 0 0 1</DataArray></Points><Cells>"
        '<DataArray type="Int64" Name="connectivity" format="ascii">0 1 2 3</DataArray>'
        '<DataArray type="Int64" Name="offsets" format="ascii">4</DataArray>'
        '<DataArray type="UInt8" Name="types" format="ascii">10</DataArray></Cells>'
        "</Piece></UnstructuredGrid></VTKFile>"
    )
    mesh = read(tmp_path / "a.vtu")
    assert mesh.point_fields["p"].tolist() == [0, 1, 2, 3]
    assert mesh.notes == ("holds 3 times, of which only the first is read",)


def test_several_times_in_one_vtkhdf_file(tmp_path):
    """The Steps group, as VTK's public description of VTKHDF lays it out."""
    times = [0.0, 0.25, 1.0]
    with h5py.File(tmp_path / "a.vtkhdf", "w") as file:
        root = file.create_group("VTKHDF")
        root.attrs["Version"] = np.array([2, 0])
        root.attrs.create("Type", b"UnstructuredGrid", dtype=h5py.string_dtype("ascii", 16))
        for name, values in {
            "NumberOfPoints": [4] * 3, "NumberOfCells": [1] * 3, "NumberOfConnectivityIds": [4] * 3,
            "Connectivity": [0, 1, 2, 3], "Offsets": [0, 4],
        }.items():  # fmt: skip
            root[name] = np.array(values, np.int64)
        root["Types"] = np.array([10], np.uint8)
        root["Points"] = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        root["PointData/p"] = np.concatenate([np.arange(4) + t for t in times])
        steps = root.create_group("Steps")
        steps.attrs["NSteps"] = 3
        steps["Values"] = np.array(times)
        steps["NumberOfParts"] = np.ones(3, np.int64)
        for name in ("PartOffsets", "PointOffsets"):
            steps[name] = np.zeros(3, np.int64)
        for name in ("CellOffsets", "ConnectivityIdOffsets"):
            steps[name] = np.zeros((3, 1), np.int64)
        steps["PointDataOffsets/p"] = np.array([0, 4, 8])
    series = read(tmp_path / "a.vtkhdf")
    assert series.times.tolist() == times
    assert [series.frame(t).point_fields["p"].tolist() for t in range(3)] == [
        [t, 1 + t, 2 + t, 3 + t] for t in times
    ]


def test_scenes_of_gltf(tmp_path):
    box = trimesh.creation.box()
    scene = trimesh.Scene()
    scene.add_geometry(box, node_name="left")
    move = trimesh.transformations.translation_matrix([3, 0, 0])
    scene.add_geometry(box, node_name="right", transform=move)
    path = tmp_path / "a.glb"
    path.write_bytes(scene.export(file_type="glb"))
    mesh = read(path)
    assert format_of(path).name == "glb" and mesh.source.reader == "trimesh"
    assert mesh.n_cells == 2 * len(box.faces)
    assert {name: len(rows) for name, rows in mesh.regions.items()} == {"left": 12, "right": 12}
    torch.testing.assert_close(mesh.points.max(0).values, torch.tensor([3.5, 0.5, 0.5]).double())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="ends early"):
        read(path)


TECPLOT = """TITLE = "made by hand"
VARIABLES = "X", "Y", "Z", "p"
ZONE T="one", N=4, E=1, F=FEPOINT, ET=TETRAHEDRON
0 0 0 1
1 0 0 2
0 1 0 3
0 0 1 4
1 2 3 4
"""


@pytest.mark.parametrize("suffix", ["dat", "plt", "tec"])
def test_tecplot_in_ascii(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text(TECPLOT)
    mesh = read(path)
    assert (mesh.n_points, mesh.n_cells) == (4, 1)
    assert mesh.point_fields["p"].tolist() == [1, 2, 3, 4]
    assert mesh.cells[0].nodes.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"# Forces\n# Time forces\n0 1 2\n", "table of forces"),
        (b"SOL 101\nCEND\nBEGIN BULK\nGRID,1,,0.,0.,0.\n", "holds no elements"),
        (b"NACA 0012\n1.0 0.0\n0.5 0.1\n0.0 0.0\n", "list of x, y"),
        ((535532).to_bytes(4, "little") + bytes(40), "SU2 restart"),
        (b"#!TDV112" + bytes(40), "binary Tecplot"),
        (b"nothing known\n", "no Tecplot"),
    ],
)
def test_other_files_of_that_suffix_are_told_what_they_seem_to_be(tmp_path, text, match):
    path = tmp_path / "a.dat"
    path.write_bytes(text)
    with pytest.raises(InputError, match=match) as error:
        read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_tecplot_of_other_people(real_data, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 30.0)
    mesh = read(real_data / "pyvista__vtk-data/Data/tecplot_ascii.dat")
    assert (mesh.n_points, mesh.n_cells) == (180, 120)  # N and E of its ZONE line
