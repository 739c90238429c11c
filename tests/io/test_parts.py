"""Files of several zones, partitions or pieces: read part by part they are what they are whole."""

import h5py
import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.data import Store, preprocess
from meshsim.io import read
from meshsim.io.entries import parts
from tests.io.test_cgns import two_blocks

TET = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


def cgns(folder):
    two_blocks(folder / "a.cgns")
    return folder / "a.cgns"


def vtkhdf(folder, count=3):
    """Tetrahedra apart from each other, a partition each; as VTK's description lays it out."""
    path = folder / "a.vtkhdf"
    with h5py.File(path, "w") as file:
        root = file.create_group("VTKHDF")
        root.attrs["Version"] = [1, 0]
        root.attrs.create("Type", b"UnstructuredGrid", dtype=h5py.string_dtype("ascii", 16))
        for name, n in ("NumberOfPoints", 4), ("NumberOfCells", 1), ("NumberOfConnectivityIds", 4):
            root[name] = np.array([n] * count)
        root["Points"] = np.concatenate([TET * (k + 1) + [9 * k, 0, 0] for k in range(count)])
        root["Connectivity"] = np.array([0, 1, 2, 3] * count)
        root["Offsets"] = np.array([0, 4] * count)
        root["Types"] = np.array([10] * count, np.uint8)
        root["PointData/p"] = np.arange(4.0 * count)
        root["CellData/q"] = np.arange(1.0 * count)
    return path


def vtu(folder, count=3):
    """The same as a .vtu of several pieces."""

    def array(name, values, kind="Float64", width=1):
        text = " ".join(map(str, np.ravel(values)))
        return (
            f'<DataArray type="{kind}" Name="{name}" NumberOfComponents="{width}" format="ascii">'
            f"{text}</DataArray>"
        )

    listed = [
        '<Piece NumberOfPoints="4" NumberOfCells="1">'
        f"<PointData>{array('p', np.arange(4.0) + 4 * k)}</PointData>"
        f"<CellData>{array('q', [float(k)])}</CellData>"
        f"<Points>{array('x', TET * (k + 1) + [9 * k, 0, 0], width=3)}</Points>"
        f"<Cells>{array('connectivity', range(4), 'Int64')}{array('offsets', [4], 'Int64')}"
        f"{array('types', [10], 'UInt8')}</Cells></Piece>"
        for k in range(count)
    ]
    path = folder / "a.vtu"
    path.write_text(
        '<VTKFile type="UnstructuredGrid" version="1.0"><UnstructuredGrid>'
        + "".join(listed)
        + "</UnstructuredGrid></VTKFile>"
    )
    return path


KINDS = {"cgns": (cgns, [18, 18]), "vtkhdf": (vtkhdf, [4, 4, 4]), "vtu": (vtu, [4, 4, 4])}


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_are_the_whole(kind, tmp_path):
    make, points = KINDS[kind]
    path = make(tmp_path)
    assert parts(path) == points
    whole = read(path)
    found = [read(path, part=k) for k in range(len(points))]
    assert [part.n_points for part in found] == points
    measures = torch.cat([part.cell_measures for part in found])
    assert torch.equal(measures, whole.cell_measures)
    centres = torch.cat([part.cell_centres for part in found])
    assert torch.equal(centres, whole.cell_centres)
    for name, values in whole.cell_fields.items():
        assert torch.equal(torch.cat([part.cell_fields[name] for part in found]), values)
    assert {*whole.point_fields} == {*found[0].point_fields}
    if kind == "cgns":
        # the patch of the second zone is its own
        assert [len(part.boundaries["side"].faces) for part in found] == [2, 2]
    for wrong in (len(points), -1):
        with pytest.raises(InputError, match=rf"has no (zone|part) {wrong} \(it has {len(points)}"):
            read(path, part=wrong)


def test_what_has_no_parts(tmp_path):
    one = vtu(tmp_path, 1)
    assert parts(one) == [] and parts(tmp_path / "nothing.cgns") == []
    assert read(one, part=0).n_cells == 1
    (tmp_path / "a.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    assert parts(tmp_path / "a.off") == []
    with pytest.raises(InputError, match=r"a\.off: cannot be read in parts"):
        read(tmp_path / "a.off", part=0)
    (tmp_path / "b.vtu").write_text("<VTKFile type='UnstructuredGrid'><Piece")
    assert parts(tmp_path / "b.vtu") == []


def test_a_tag_across_two_blocks_is_found(tmp_path, monkeypatch):
    path = vtu(tmp_path, 5)
    from meshsim.io.raw import vtk

    for size in (1, 7, 100):
        monkeypatch.setattr(vtk, "CHUNK", size)
        assert vtk._parts(str(path), "UnstructuredGrid") == [4] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_for_the_memory_it_is_cut(kind, tmp_path, monkeypatch):
    import sys

    from meshsim.data.costs import Cost, Rates

    make, points = KINDS[kind]
    (tmp_path / "in").mkdir()
    path = make(tmp_path / "in")

    def of(self, source):
        peak = 50 if source.part is None else 10
        return Cost(source.name, "", 1, 1, 1, 0.0, peak, "measured")

    module = sys.modules["meshsim.data.preprocessing"]
    monkeypatch.setattr(module, "measure", lambda found, options: Rates(1))
    monkeypatch.setattr(Rates, "of", of)
    report = preprocess(tmp_path / "in", tmp_path / "s", memory=20)
    store = Store(tmp_path / "s")
    names = [f"a.part{k}" for k in range(len(points))]
    assert (report.failed, store.names, store.cut) == ([], names, ["a"])
    for k, name in enumerate(names):
        assert torch.equal(store.sample(name).mesh.points, read(path, part=k).points)
        assert store.provenance(name)["whole"] == "a"
    read_in_all = sum(entry["bytes_read"] for entry in report.manifest.values())
    assert abs(read_in_all - path.stat().st_size) < len(points)
    again = preprocess(tmp_path / "in", tmp_path / "s")
    assert (again.skipped, again.gone) == (len(points), [])
