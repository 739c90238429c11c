"""Files appear whole or not at all, and what cannot be written is said in one line."""

import os
import resource
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from meshsim.check import InputError, WorkError
from meshsim.io import losses, read, write
from meshsim.io.holds import HOLDS
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series
from tests.helpers import MESHES


def fitting(suffix):
    return MESHES["cube_surface" if suffix in ("vtp", "stl", "obj", "off", "ply") else "channel"]


def test_unknown_suffixes_and_objects_that_do_not_fit(tmp_path):
    mesh = MESHES["channel"]

    def refused(obj, name, match):
        for function in (losses, write):
            with pytest.raises(InputError, match=match) as error:
                function(obj, tmp_path / name)
            assert "\n" not in str(error.value)
        assert not list(tmp_path.iterdir())

    refused(mesh, "a.vtuu", "did you mean 'vtu'")
    refused(mesh, "a", "cannot write")
    refused(mesh, "a.vtu.gz", "packed files are read, but not written")
    refused(mesh, "a.inp", "cannot write .inp")
    refused(Series(mesh, [0.0, 1.0]), "a.vtu", r"holds one time, the series has 2: write \.npz")
    refused(MESHES["mixed_solid"], "a.stl", "cannot hold cells of type hexahedron, pyramid")
    refused(MESHES["polyhedra"], "a.msh", r"polyhedron \(formats that can: npz, pvd, vtu")
    refused(Sample({"a": mesh, "b": mesh}), "a.npz", "branches a, b: say which")
    refused(
        mesh.with_fields({"c": torch.ones(15, dtype=torch.complex64)}), "a.vtu", "complex numbers"
    )


@pytest.mark.parametrize("suffix", HOLDS)
def test_a_folder_that_cannot_be_written_to(suffix, tmp_path):
    with pytest.raises(InputError, match="cannot write") as error:
        write(fitting(suffix), tmp_path / "none" / f"a.{suffix}")
    assert str(tmp_path / "none") in str(error.value)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write"):
        write(fitting(suffix), tmp_path / "file" / f"a.{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "x"


FULL = """
    import resource, signal, sys
    from pathlib import Path
    import torch
    from meshsim.check import WorkError
    from meshsim.io import write
    from meshsim.mesh import Mesh
    n = 3000
    folder = Path(sys.argv[1])
    cells = {"triangle": torch.arange(n).reshape(-1, 3)}
    mesh = Mesh(torch.rand(n, 3), cells, {"p": torch.rand(n)})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python's default: the write fails instead
    for suffix in sys.argv[2:]:
        path = folder / f"a.{suffix}"
        write(mesh, path)
        before = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            write(mesh.with_fields({"q": torch.rand(n)}), path)
        except WorkError as error:
            assert str(path) in str(error) and "\\n" not in str(error), error
        else:
            raise AssertionError(suffix)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        after = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert before == after, (suffix, before.keys(), after.keys())
"""


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path):
    assert resource.RLIMIT_FSIZE
    root = Path(__file__).resolve().parents[2]
    suffixes = [s for s in HOLDS if s not in ("su2",)]  # su2 holds no surface in space
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), *suffixes],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_other_errors_half_way_leave_nothing(tmp_path):
    class Broken:
        def __len__(self):
            return 3

        def __getitem__(self, t):
            if t == 2:
                raise InputError("frame 2 cannot be read")
            return torch.zeros(MESHES["channel"].n_points)

    series = Series(MESHES["channel"], [0.0, 1.0, 2.0], {"s": Broken()})
    for suffix in ("pvd", "xdmf", "npz"):
        with pytest.raises(InputError, match="frame 2"):
            write(series, tmp_path / f"a.{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_series_is_written_over_an_older_one(tmp_path):
    mesh = MESHES["channel"]
    path = tmp_path / "a.pvd"
    seen = []
    write(Series(mesh, [0.0, 1.0, 2.0]), path, progress=lambda n, of: seen.append((n, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    write(Series(mesh, [5.0, 6.0]), path)
    assert read(path).times.tolist() == [5.0, 6.0]
    assert len(list((tmp_path / "a_frames").iterdir())) == 2
    (tmp_path / "a_frames" / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="in the way"):
        write(Series(mesh, [7.0]), path)
    assert (tmp_path / "a_frames" / "precious.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pvd", "a_frames"]


def test_a_list_of_frames_that_cannot_be_written_keeps_the_older_series(tmp_path, monkeypatch):
    mesh, path = MESHES["channel"], tmp_path / "a.pvd"
    write(Series(mesh, [0.0, 1.0, 2.0]), path)
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(WorkError, match="No space left"):
        write(Series(mesh, [5.0, 6.0]), path)
    with pytest.raises(WorkError, match="No space left"):
        write(Series(mesh, [5.0, 6.0]), tmp_path / "b.pvd")
    monkeypatch.undo()
    assert len(read(path)) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pvd", "a_frames"]


def refuse(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("suffix", ["vtu", "vtk", "xdmf", "cgns", "msh", "npz"])
def test_cell_fields_follow_their_cells_through_another_order(suffix, tmp_path):
    mesh = MESHES["channel"]
    order = torch.randperm(mesh.n_cells, generator=torch.Generator().manual_seed(3))
    mesh = mesh.replace(file_order=order).with_fields(cell={"c": mesh.cell_centres[:, 0]})
    path = tmp_path / f"a.{suffix}"
    write(mesh, path)
    back = read(path)
    torch.testing.assert_close(back.cell_fields["c"], back.cell_centres[:, 0])
    if suffix in ("vtu", "vtk"):  # what another program sees: the cells in the file's order
        import pyvista

        assert pyvista.read(path).cell_data["c"][order].tolist() == mesh.cell_fields["c"].tolist()


def test_planar_vectors_have_three_components_for_other_programs(tmp_path):
    import meshio

    mesh = MESHES["channel"]
    write(mesh, tmp_path / "a.vtu")
    found = meshio.read(tmp_path / "a.vtu")
    assert found.points.shape == (15, 3)
    assert found.point_data["u"].shape == (15, 3)
    assert found.point_data["p"].tolist() == mesh.point_fields["p"].tolist()


@pytest.mark.parametrize("suffix", ["vtu", "vtk", "msh", "su2", "xdmf"])
@pytest.mark.parametrize("name", ["channel", "mixed_solid", "quadratic2d", "quadratic3d"])
def test_meshio_reads_our_files_alike(suffix, name, tmp_path):
    import meshio

    mesh = MESHES[name].replace(boundaries={}, regions={}, global_fields={})
    if suffix in ("msh", "xdmf"):
        # meshio 5.3.5 trips over any $ElementData, and knows few cells in mixed topologies
        mesh = mesh.replace(cell_fields={})
    types = {block.type for block in mesh.cells}
    if types - HOLDS[suffix].types or (name[:4] == "quad" and suffix in ("su2", "xdmf")):
        with pytest.raises(InputError) if types - HOLDS[suffix].types else nullcontext():
            write(mesh, tmp_path / f"a.{suffix}")
        return
    write(mesh, tmp_path / f"a.{suffix}")
    if types & {"pyramid13", "wedge15"}:
        return  # not in meshio's tables
    found = meshio.read(tmp_path / f"a.{suffix}")
    assert (found.points[:, : mesh.dim] == mesh.points.numpy()).all()
    theirs: dict[str, list] = {}
    for block in found.cells:
        theirs.setdefault(block.type, []).extend(block.data.tolist())
    for block in mesh.cells:
        nodes = block.nodes
        if block.type == "wedge" and suffix in ("vtu", "vtk"):
            nodes = nodes[:, [0, 2, 1, 3, 5, 4]]  # meshio turns VTK's wedges round
        assert theirs[block.type] == nodes.tolist()
    if HOLDS[suffix].fields:
        assert found.point_data["p"].tolist() == mesh.point_fields["p"].tolist()


@pytest.mark.parametrize("suffix", ["stl", "obj", "off", "ply"])
def test_trimesh_reads_our_surfaces_alike(suffix, tmp_path):
    import trimesh

    mesh = MESHES["cube_surface"]
    if suffix == "ply":  # trimesh reads no binary lists of different length
        triangle, quad = (block.nodes for block in mesh.cells)
        fans = torch.cat([triangle, quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])
        mesh = Mesh(mesh.points, {"triangle": fans})
    write(mesh, tmp_path / f"a.{suffix}")
    found = trimesh.load(tmp_path / f"a.{suffix}", process=False, force="mesh")
    assert found.bounds.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert found.area == pytest.approx(float(mesh.cell_measures.sum()))
    assert len(found.vertices) >= mesh.n_points


def test_gmsh_reads_our_files(tmp_path):
    gmsh = pytest.importorskip("gmsh", reason="needs gmsh (extra `solve`)")
    mesh = MESHES["channel"]
    write(mesh, tmp_path / "a.msh")
    gmsh.initialize(interruptible=False)
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        gmsh.open(str(tmp_path / "a.msh"))
        names = {gmsh.model.getPhysicalName(d, t) for d, t in gmsh.model.getPhysicalGroups()}
        assert names == {*mesh.boundaries, *mesh.regions}
        assert len(gmsh.model.mesh.getNodes()[0]) == mesh.n_points
    finally:
        gmsh.finalize()


def test_stale_extras_are_left_out_with_a_note(tmp_path):
    """Programs that cut a mesh pass our field data on: it must not name other cells."""
    from meshsim.io import plain, to_vtk

    mesh = MESHES["channel"]
    found = plain.tree(mesh)
    other = plain.tree(MESHES["polygons"])
    packed = plain.packed(found)
    arrays = {k: v for k, v in packed.items() if not isinstance(v, str)}
    text = {"meshsim": torch.tensor(list(packed["meshsim"].encode()), dtype=torch.uint8).numpy()}
    empty = {"boundaries": {}, "groups": {}}
    with (tmp_path / "a.vtu").open("wb") as file:
        to_vtk.vtu({**other, **empty, "global_fields": {**text, **arrays}}, file)
    data = (tmp_path / "a.vtu").read_bytes()
    back = read(tmp_path / "a.vtu")
    assert b"boundary:wall" in data
    assert not back.boundaries and isinstance(back, Mesh)
