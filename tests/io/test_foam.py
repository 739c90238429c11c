"""OpenFOAM cases, ASCII and binary: cells, patches, zones, times, and writing into them."""

import gzip
import shutil

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.io import losses, read, write
from meshsim.mesh import Mesh
from meshsim.series import Series
from tests.helpers import MESHES

HEAD = 'FoamFile\n{{\n    version 2.0;\n    format {form};\n    arch "LSB;label=32;scalar=64";\n    class {kind};\n    object {name};\n}}\n// * * * //\n'  # noqa: E501


class Writer:
    """Writes lists as OpenFOAM does, in ASCII or binary."""

    def __init__(self, binary: bool):
        self.binary = binary

    def head(self, kind, name):
        return HEAD.format(form="binary" if self.binary else "ascii", kind=kind, name=name).encode()

    def numbers(self, values):
        values = np.asarray(values)
        n = f"\n{len(values)}\n(".encode()
        if self.binary:
            kind = "<i4" if values.dtype.kind == "i" else "<f8"
            return n + values.astype(kind).tobytes() + b")\n"
        rows = [
            f"({' '.join(map(repr, row))})" if isinstance(row, list) else repr(row)
            for row in values.tolist()
        ]
        return n + ("\n" + "\n".join(rows) + "\n").encode() + b")\n"

    def faces(self, rings):
        if self.binary:
            of = np.cumsum([0, *map(len, rings)])
            return self.numbers(of) + self.numbers(np.concatenate(rings))
        lines = [f"{len(ring)}({' '.join(map(str, ring))})" for ring in rings]
        return (f"\n{len(rings)}\n(\n" + "\n".join(lines) + "\n)\n").encode()


def case(folder, mesh: Mesh, binary: bool, patches=()):
    """Write a mesh as polyMesh; gives the order of the faces."""
    w = Writer(binary)
    of = mesh.faces
    rest = set(range(of.n_internal, len(of)))
    order = list(range(of.n_internal))
    listed, start = [], len(order)
    for name, kind, ids in [*patches, ("other", "wall", None)]:
        mine = sorted(rest) if ids is None else ids
        rest -= set(mine)
        order += mine
        listed.append((name, kind, len(mine), start))
        start += len(mine)
    rings = [of.nodes[of.offsets[f] : of.offsets[f + 1]].tolist() for f in order]
    poly = folder / "constant/polyMesh"
    poly.mkdir(parents=True)
    points = np.asarray(mesh.points, np.float64)
    (poly / "points").write_bytes(w.head("vectorField", "points") + w.numbers(points))
    kind = "faceCompactList" if binary else "faceList"
    (poly / "faces").write_bytes(w.head(kind, "faces") + w.faces(rings))
    owner, neighbour = of.owner[order].numpy(), of.neighbour[: of.n_internal].numpy()
    (poly / "owner").write_bytes(w.head("labelList", "owner") + w.numbers(owner))
    (poly / "neighbour").write_bytes(w.head("labelList", "neighbour") + w.numbers(neighbour))
    entries = "".join(
        f"    {name}\n    {{\n type {kind};\n inGroups List<word> 1(wall);\n nFaces {n};\n"
        f" startFace {a};\n }}\n"
        for name, kind, n, a in listed
    )
    text = HEAD.format(form="ascii", kind="polyBoundaryMesh", name="boundary")
    (poly / "boundary").write_text(f"{text}\n{len(listed)}\n(\n{entries})\n")
    return order


def field(folder, name, time, values, binary, boundary=b"other { type zeroGradient; }"):
    w = Writer(binary)
    kind = {1: "Scalar", 2: "Vector"}[np.ndim(values)]
    (folder / time).mkdir(exist_ok=True)
    body = b"dimensions [0 1 -1 0 0 0 0];\ninternalField nonuniform List<" + kind.lower().encode()
    body += b"> " + w.numbers(values) + b";\nboundaryField\n{\n" + boundary + b"\n}\n"
    (folder / time / name).write_bytes(w.head(f"vol{kind}Field", name) + body)


SOLIDS = ["mixed_solid", "polyhedra", "warped"]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", SOLIDS)
def test_cells_get_their_shapes_back(name, binary, tmp_path):
    mesh = MESHES[name]
    order = case(tmp_path / "case", mesh, binary)
    back = read(tmp_path / "case")
    assert torch.equal(back.points, mesh.points)
    found = {b.type: len(b) for b in back.cells}
    if name == "polyhedra":  # four of them are cubes
        assert found == {"polyhedron": 2, "hexahedron": 4}
    else:
        assert found == {b.type: len(b) for b in mesh.cells}
    # OpenFOAM's cells are numbered as ours, whatever blocks they are in
    file_order = torch.arange(back.n_cells) if back.file_order is None else back.file_order
    volume = torch.empty_like(mesh.cell_measures)
    volume[file_order] = back.cell_measures
    torch.testing.assert_close(volume, mesh.cell_measures, rtol=1e-12, atol=1e-12)
    assert len(back.faces) == len(mesh.faces) and back.faces.n_internal == mesh.faces.n_internal
    assert len(back.boundaries["other"].faces) == len(order) - mesh.faces.n_internal
    assert back.boundaries["other"].kind == "wall"


def times(tmp_path, binary=False):
    mesh = MESHES["mixed_solid"]
    outside = range(mesh.faces.n_internal, len(mesh.faces))
    patches = [("inlet", "patch", [outside[3], outside[1]]), ("sides", "empty", [outside[2]])]
    folder = tmp_path / "case"
    case(folder, mesh, binary, patches)
    for t in (0, 0.5, 10):
        listed = Writer(binary).numbers([[1.0, 2, 3], [4, 5, 6]])
        inlet = b"inlet { type fixedValue; value nonuniform List<vector> " + listed + b"; }"
        u = np.arange(18.0).reshape(6, 3) + t
        field(folder, "U", f"{t:g}", u, binary, inlet + b" other { type noSlip; }")
        field(folder, "p", f"{t:g}", np.arange(6.0) * t, binary, b"inlet { value uniform 7; }")
    field(folder, "late", "10", np.arange(6.0), binary)
    (folder / "10" / "phi").write_bytes(Writer(False).head("surfaceScalarField", "phi") + b"x")
    (folder / "10" / "notes.txt").write_text("not a field")
    (folder / "system").mkdir()
    (folder / "system/controlDict").write_text(
        HEAD.format(form="ascii", kind="dictionary", name="c")
    )
    (folder / "case.foam").touch()
    return mesh, folder


@pytest.mark.parametrize("binary", [False, True])
def test_times_are_a_series_read_frame_by_frame(tmp_path, binary):
    mesh, folder = times(tmp_path, binary)
    series = read(folder)
    assert isinstance(series, Series) and series.times.tolist() == [0, 0.5, 10]
    assert set(series.cell_fields) == {"U", "p"}
    assert any("late" in note for note in series.mesh.notes)
    assert any("'sides' is of type empty" in note for note in series.mesh.notes)
    frame = series.frame(2)
    rows = torch.arange(6) if series.mesh.file_order is None else series.mesh.file_order
    assert frame.cell_fields["U"].tolist() == (rows[:, None] * 3 + torch.arange(3) + 10.0).tolist()
    assert frame.cell_fields["p"].tolist() == (rows * 10.0).tolist()
    for path in (folder / "case.foam", folder / "system/controlDict"):
        assert read(path).times.tolist() == [0, 0.5, 10]
    last = read(folder, time="last")
    assert set(last.cell_fields) == {"U", "p", "late"}
    inlet = last.boundaries["inlet"]
    assert inlet.fields["U"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert inlet.fields["p"].tolist() == [7, 7]
    outside = range(mesh.faces.n_internal, len(mesh.faces))
    centre = mesh.faces.centre[[outside[3], outside[1]]]
    torch.testing.assert_close(last.faces.centre[inlet.faces], centre)


def test_zones_moving_points_and_packed_files(tmp_path):
    mesh, folder = times(tmp_path)
    poly = folder / "constant/polyMesh"
    zones = HEAD.format(form="ascii", kind="regIOobject", name="cellZones")
    zones += "2\n(\nrotor\n{\n type cellZone;\ncellLabels List<label>\n3\n(0 5 2)\n;\n}\n"
    zones += "stator { type cellZone; cellLabels List<label> 1(1); }\n)\n"
    (poly / "cellZones").write_text(zones)
    (poly / "owner.gz").write_bytes(gzip.compress((poly / "owner").read_bytes()))
    (poly / "owner").unlink()
    moved = folder / "10/polyMesh"
    moved.mkdir()
    points = np.asarray(mesh.points) * 2
    w = Writer(False)
    (moved / "points").write_bytes(w.head("vectorField", "points") + w.numbers(points))
    series = read(folder)
    order = torch.arange(6) if series.mesh.file_order is None else series.mesh.file_order
    assert {name: sorted(order[rows].tolist()) for name, rows in series.mesh.regions.items()} == {
        "rotor": [0, 2, 5],
        "stator": [1],
    }
    assert torch.equal(series.frame(1).points, mesh.points)
    assert torch.equal(series.frame(2).points, mesh.points * 2)


def test_faults_are_named(tmp_path):
    _, folder = times(tmp_path)
    poly = folder / "constant/polyMesh"

    def refused(name, match, change):
        shutil.copytree(folder, tmp_path / "copy")
        change(tmp_path / "copy" / name)
        with pytest.raises(InputError, match=match) as error:
            read(tmp_path / "copy", time="last")
        assert "\n" not in str(error.value)
        shutil.rmtree(tmp_path / "copy")

    def cut(n):
        return lambda path: path.write_bytes(path.read_bytes()[:-n])

    def put(old, new):
        return lambda path: path.write_text(path.read_text().replace(old, new, 1))

    for name in ("points", "faces", "owner", "neighbour", "boundary"):
        where = f"constant/polyMesh/{name}"
        refused(where, name, cut(20))
        refused(where, name, lambda path: path.unlink())
        refused(where, name, lambda path: path.write_text("nonsense"))
    text = (poly / "faces").read_text()
    face = text[text.index("4(") :].split(")")[0]
    refused("constant/polyMesh/faces", "index 99", put(face, face[: face.rindex(" ")] + " 99"))
    refused("constant/polyMesh/boundary", "outside the faces", put("nFaces 2", "nFaces 2000"))
    refused("10/U", "10/U", cut(60))
    refused("10/U", "10/U", put("(10.0", "(ten"))
    (tmp_path / "empty/constant").mkdir(parents=True)
    with pytest.raises(InputError, match="polyMesh/points is not there"):
        read(tmp_path / "empty")
    (tmp_path / "many/constant/solid/polyMesh").mkdir(parents=True)
    with pytest.raises(InputError, match="polyMesh/points is not there"):
        read(tmp_path / "many")
    (tmp_path / "split/processor0").mkdir(parents=True)
    with pytest.raises(InputError, match="polyMesh/points is not there"):
        read(tmp_path / "split")
    (tmp_path / "split/processor0").rename(tmp_path / "split/processors4")
    (tmp_path / "split/constant").mkdir()
    with pytest.raises(InputError, match="processor0: polyMesh/points is not there"):
        read(tmp_path / "split")


def test_a_field_of_another_length_is_left_out_with_a_note(tmp_path):
    _, folder = times(tmp_path)
    field(folder, "odd", "10", np.arange(4.0), False)
    mesh = read(folder, time="last")
    assert "odd" not in mesh.cell_fields
    assert any("10/odd: 4 values, not 6" in note for note in mesh.notes)


def test_predictions_go_back_into_the_case(tmp_path):
    _, folder = times(tmp_path)
    mesh = read(folder, time="last")
    n = len(mesh.boundaries["inlet"].faces)
    mesh = mesh.with_fields(
        {"at points": torch.zeros(mesh.n_points)},
        {"T": torch.arange(6.0) / 3, "stress": torch.rand(6, 3, 3), "pair": torch.rand(6, 2)},
    )
    inlet = mesh.boundaries["inlet"]
    new = type(inlet)(inlet.faces, {**inlet.fields, "T": torch.arange(n) + 0.5}, inlet.kind)
    mesh = mesh.replace(boundaries={**mesh.boundaries, "inlet": new})
    said = losses(mesh, folder)
    assert said == write(mesh, folder)
    assert "at points" in " ".join(said) and "pair" in " ".join(said)
    back = read(folder, time="last")
    assert torch.equal(back.cell_fields["T"], mesh.cell_fields["T"].double())
    assert torch.equal(back.cell_fields["U"], mesh.cell_fields["U"])
    assert torch.equal(
        back.cell_fields["stress"], mesh.cell_fields["stress"].reshape(6, 9).double()
    )
    assert back.boundaries["inlet"].fields["T"].tolist() == [0.5, 1.5]
    series = Series(mesh.replace(cell_fields={}), [0.5, 20.0], {}, {"T": torch.rand(2, 6)})
    write(series, folder)
    assert read(folder).times.tolist() == [0, 0.5, 10, 20]
    assert torch.equal(read(folder, time=20).cell_fields["T"], series.field("T")[1].double())
    with pytest.raises(InputError, match="the case has 6 cells"):
        write(MESHES["channel"], folder)
    with pytest.raises(InputError, match="other points"):
        write(mesh.replace(points=mesh.points * 2), folder)
    with pytest.raises(InputError, match="no OpenFOAM case"):
        write(mesh, tmp_path)


def test_a_case_with_one_time_keeps_it_and_the_dimensions_of_its_fields(tmp_path):
    case(tmp_path / "case", MESHES["mixed_solid"], False)
    field(tmp_path / "case", "p", "500", np.zeros(6), False)
    mesh = read(tmp_path / "case").with_fields(cell={"p": torch.arange(6.0), "new": torch.ones(6)})
    with pytest.raises(InputError, match=r"500/p is there with other values: name the time.*500"):
        write(mesh, tmp_path / "case")
    assert not (tmp_path / "case" / "500" / "new").exists()
    write(mesh, tmp_path / "case" / "500")
    assert not (tmp_path / "case" / "0").exists()
    assert "dimensions [0 1 -1 0 0 0 0];" in (tmp_path / "case" / "500" / "p").read_text()
    assert "dimensions [0 0 0 0 0 0 0];" in (tmp_path / "case" / "500" / "new").read_text()
    back = read(tmp_path / "case")
    assert torch.equal(back.cell_fields["p"], mesh.cell_fields["p"].double())


CONDITIONS = b"""inlet { type fixedValue; value $internalField; }
    sides { type empty; }
    other { type nutkWallFunction; Cmu 0.09; value uniform (0 0 7); } // by the user"""


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_boundary_conditions_stay_when_cells_get_other_values(binary, packed, tmp_path):
    mesh, folder = times(tmp_path, binary)
    field(folder, "V", "0", np.ones((6, 3)), binary, CONDITIONS)
    path = folder / "0" / "V"
    text = path.read_bytes()
    start = text.index(b"nonuniform")
    uniform = b"uniform (10 0 0);\nwall 0.5;\n"
    path.write_bytes(text[:start] + uniform + text[text.index(b"boundaryField") :])
    if packed:
        (folder / "0" / "V.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    values = torch.rand(6, 3, dtype=torch.float64)
    mesh = read(folder, time=0).replace(cell_fields={"V": values})
    for time in ("0", "3"):
        write(mesh.replace(boundaries={}), folder / time)
        back = read(folder, time=float(time))
        assert torch.equal(back.cell_fields["V"], values)
        made = (folder / time / "V").read_bytes()
        assert b"type nutkWallFunction; Cmu 0.09; value uniform (0 0 7); } // by the user" in made
        assert b"value uniform (10 0 0);" in made  # what it was in all cells
        assert b"wall 0.5;" in made and b"dimensions [0 1 -1 0 0 0 0];" in made
    assert not (folder / "0" / "V.gz").exists()


def test_other_values_on_a_patch_are_written_as_calculated(tmp_path):
    _, folder = times(tmp_path)
    field(folder, "T", "0", np.ones(6), False, b"inlet { type fixedValue; value uniform 4; }")
    mesh = read(folder, time=0)
    inlet = mesh.boundaries["inlet"]
    assert inlet.fields["T"].unique().tolist() == [4.0]
    write(mesh.with_fields(cell={"T": torch.zeros(6)}), folder / "7")
    assert b"fixedValue" in (folder / "7" / "T").read_bytes()
    new = type(inlet)(inlet.faces, {"T": torch.full((len(inlet.faces),), 5.0)}, inlet.kind)
    write(mesh.replace(boundaries={**mesh.boundaries, "inlet": new}), folder / "8")
    assert b"fixedValue" not in (folder / "8" / "T").read_bytes()
    assert read(folder, time=8).boundaries["inlet"].fields["T"].unique().tolist() == [5.0]


def test_files_that_a_field_includes_are_not_looked_for_elsewhere(tmp_path):
    _, folder = times(tmp_path)
    field(folder, "T", "0", np.ones(6), False, b'#include "walls"\nother { type zeroGradient; }')
    (folder / "0" / "walls").write_text("inlet { type fixedValue; value uniform 4; }")
    mesh = read(folder, time=0).replace(cell_fields={"T": torch.arange(6.0)})
    write(mesh, folder / "0")
    write(mesh.replace(boundaries={}), folder / "9")
    assert b"#include" in (folder / "0" / "T").read_bytes()
    assert b"#include" not in (folder / "9" / "T").read_bytes()
    assert read(folder, time=9).cell_fields["T"].tolist() == list(range(6))


def test_a_time_takes_a_mesh_and_no_series(tmp_path):
    _, folder = times(tmp_path)
    mesh = read(folder, time=0).replace(cell_fields={})
    series = Series(mesh, [0.5], {}, {"T": torch.rand(1, 6)})
    with pytest.raises(InputError, match="times of its own"):
        write(series, folder / "4")
    with pytest.raises(InputError):
        write(mesh, tmp_path / "4")  # beside no case


def test_cells_in_another_order_are_not_written(tmp_path):
    case(tmp_path / "case", MESHES["warped"], False)
    mesh = read(tmp_path / "case")
    mesh = mesh.with_fields(cell={"T": mesh.cell_centres[:, 0]})
    write(mesh, tmp_path / "case" / "1")
    assert torch.equal(read(tmp_path / "case").cell_fields["T"], mesh.cell_fields["T"])
    order = torch.arange(mesh.n_cells).flip(0)
    turned = mesh.replace(file_order=order if mesh.file_order is None else mesh.file_order[order])
    with pytest.raises(InputError, match="in another order"):
        write(turned, tmp_path / "case" / "2")
    assert not (tmp_path / "case" / "2").exists()


def test_what_openfoam_cannot_read_is_not_written(tmp_path):
    case(tmp_path / "case", MESHES["warped"], False)
    mesh = read(tmp_path / "case").replace(cell_fields={})
    names = ["a b", "x/y", "../T", "T;", "Größe", "alpha.water", "mag(U)"]
    found = mesh.with_fields(cell={name: torch.ones(mesh.n_cells) for name in names})
    (said,) = write(found, tmp_path / "case" / "1")
    assert all(repr(name) in said for name in names[:4])
    assert sorted(p.name for p in (tmp_path / "case" / "1").iterdir()) == sorted(names[4:])
    hole = torch.ones(mesh.n_cells)
    hole[2] = torch.nan
    with pytest.raises(InputError, match=r"`p`: 1 values are not finite.*row 2"):
        write(mesh.with_fields(cell={"T": torch.ones(6), "p": hole}), tmp_path / "case" / "2")
    assert not (tmp_path / "case" / "2").exists()
