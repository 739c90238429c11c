"""MED files: order of nodes, families and groups, polyhedra, fields with profiles and times."""

import h5py
import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.geometry.cells import TYPES
from meshsim.io import format_of, read
from meshsim.io.raw.med_cells import CELLS
from meshsim.series import Series
from tests.helpers import MESHES
from tests.io.test_gmsh import middles

MED = {kind: key for key, (kind, _) in CELLS.items()}
ALL = "MED_NO_PROFILE_INTERNAL"


def write_mesh(file, mesh, name="flow", version=3, families=None, node_families=None):
    """A mesh as MED writes it: component by component, counted from one."""
    root = file.require_group(f"ENS_MAA/{name}")
    root.attrs["ESP" if version > 2 else "DIM"] = mesh.dim
    root.attrs["UNI"] = np.bytes_("m".ljust(16) * mesh.dim)
    step = root
    if version > 2:
        step = root.create_group("-0000000000000000001-0000000000000000001")
        step.attrs["NDT"], step.attrs["NOR"], step.attrs["PDT"] = -1, -1, 0.0
    coordinates = step.create_dataset("NOE/COO", data=mesh.points.numpy().T.reshape(-1))
    if version > 2:
        coordinates.attrs["NBR"] = mesh.n_points
    step["NOE/FAM"] = np.zeros(mesh.n_points, "i4") if node_families is None else node_families
    for block in mesh.cells:
        key = MED[block.type]
        nodes = block.nodes.numpy() + 1
        group = step.create_group(f"MAI/{key}")
        if block.type == "polygon":
            group["INN"] = block.offsets.numpy() + 1
            group["NOD"] = nodes
        elif block.type == "polyhedron":
            group["IFN"] = block.offsets.numpy() + 1
            group["INN"] = block.face_offsets.numpy() + 1
            group["NOD"] = nodes
        else:
            order = CELLS[key][1] or list(range(TYPES[block.type][1]))
            listed = np.empty_like(nodes)
            listed[:, order] = nodes
            group["NOD"] = listed.T.reshape(-1)
        if families and key in families:
            group["FAM"] = np.asarray(families[key])
    return step


def family(file, number, names, mesh="flow"):
    group = file.create_group(f"FAS/{mesh}/{'ELEME' if number < 0 else 'NOEUD'}/F{number}")
    group.attrs["NUM"] = number
    letters = [list(name.encode().ljust(80, b" ")) for name in names]
    letters[0][len(names[0])] = 0  # old files end names by a zero, with leftovers behind it
    letters[0][len(names[0]) + 1] = 65
    data = group.create_dataset("GRO/NOM", (len(names),), np.dtype((np.int8, (80,))))
    data[...] = np.array(letters, np.int8)


def write_field(file, name, place, step, values, mesh="flow", profile=ALL, names="", gauss=1):
    values = np.asarray(values)
    width = 1 if values.ndim == 1 else values.shape[1]
    root = file.require_group(f"CHA/{name}")
    root.attrs["MAI"], root.attrs["NCO"] = np.bytes_(mesh), width
    root.attrs["NOM"] = np.bytes_(names)
    root.attrs["UNI"] = np.bytes_("m/s".ljust(16) * width if names else "")
    group = root.require_group(f"{step[0]:020d}{-1:020d}")
    group.attrs["NDT"], group.attrs["NOR"], group.attrs["PDT"] = step[0], -1, step[1]
    below = group.create_group(f"{place}/{profile}")
    below.attrs["NGA"] = gauss
    below["CO"] = values.T.reshape(-1)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "name", ["mixed_solid", "quadratic3d", "channel", "quadratic2d", "polygons", "polyhedra"]
)
def test_what_was_written_comes_back(name, version, tmp_path):
    mesh = MESHES[name]
    with h5py.File(tmp_path / "whatever", "w") as file:
        write_mesh(file, mesh, version=version)
    assert format_of(tmp_path / "whatever").name == "med"
    back = read(tmp_path / "whatever")
    assert torch.equal(back.points, mesh.points)
    found = {b.type: b for b in back.cells}
    assert set(found) == {b.type for b in mesh.cells}
    for block in mesh.cells:
        assert torch.equal(found[block.type].nodes, block.nodes)
        if block.type == "polyhedron":
            assert torch.equal(found[block.type].face_offsets, block.face_offsets)
    assert float(back.cell_measures.sum()) == pytest.approx(float(mesh.cell_measures.sum()))


def test_groups_of_cells_faces_and_nodes(tmp_path):
    mesh = MESHES["channel"]
    sides = mesh.boundaries
    ends = {name: mesh.faces.nodes.reshape(-1, 2)[b.faces] for name, b in sides.items()}
    names = list(ends)
    lines = torch.cat(list(ends.values())).numpy() + 1
    numbers = np.concatenate([[-(i + 2)] * len(e) for i, e in enumerate(ends.values())])
    nodes = np.zeros(mesh.n_points, int)
    nodes[mesh.boundary_points(names[0]).numpy()] = 7
    n = {b.type: len(b) for b in mesh.cells}
    with h5py.File(tmp_path / "a.med", "w") as file:
        step = write_mesh(file, mesh, families={"TR3": [-1] * n["triangle"]}, node_families=nodes)
        step["MAI/SE2/NOD"], step["MAI/SE2/FAM"] = lines.T.reshape(-1), numbers
        family(file, -1, ["three corners", "some"])
        for i, name in enumerate(names):
            family(file, -(i + 2), [name])
        family(file, 7, ["held"])
    back = read(tmp_path / "a.med")
    assert {k: len(b.faces) for k, b in back.boundaries.items()} == {
        **{name: len(b.faces) for name, b in sides.items()}, "held": len(sides[names[0]].faces),
    }  # fmt: skip
    assert {k: len(v) for k, v in back.regions.items()} == {
        "three corners": n["triangle"], "some": n["triangle"],
    }  # fmt: skip
    assert set(back.boundary_points("held").tolist()) == set(
        mesh.boundary_points(names[0]).tolist()
    )


def test_fields_at_times(tmp_path):
    mesh = MESHES["mixed_solid"]
    n = {MED[b.type]: len(b) for b in mesh.cells}
    x = np.arange(mesh.n_points, dtype=float)
    with h5py.File(tmp_path / "a.med", "w") as file:
        write_mesh(file, mesh)
        write_mesh(file, mesh, "other")
        for i in range(3):
            write_field(file, "T", "NOE", (i, 0.5 * i), x + i)
            velocity = np.stack([x, x + i, x * 0], 1)
            names = "".join(a.ljust(16) for a in ("vx", "vy", "vz"))
            write_field(file, "U", "NOE", (i, 0.5 * i), velocity, names=names)
            for key, many in n.items():
                write_field(file, "k", f"MAI.{key}", (i, 0.5 * i), np.full(many, i + many / 100))
        write_field(file, "late", "NOE", (1, 0.5), x)
        write_field(file, "late", "NOE", (2, 1.0), x)
        write_field(file, "few", "MAI.TE4", (0, 0.0), [3.5], profile="last")
        write_field(file, "G", "MAI.HE8", (0, 0.0), np.zeros(8), gauss=8)
        write_field(file, "strange", "NOE", (0, 0.0), x, mesh="other")
        file["PROFILS/last/PFL"] = np.array([n["TE4"]])
    series = read(tmp_path / "a.med")
    assert isinstance(series, Series) and series.times.tolist() == [0, 0.5, 1]
    assert set(series.point_fields) == {"T", "U", "late"} and set(series.cell_fields) == {"k"}
    last = series.frame(2)
    assert last.point_fields["T"].tolist() == (x + 2).tolist()
    assert last.point_fields["U"][3].tolist() == [3, 5, 0]
    for block, values in zip(
        last.cells, last.cell_fields["k"].split([*map(len, last.cells)]), strict=True
    ):
        assert values.tolist() == [2 + len(block) / 100] * len(block)
    assert bool(series.frame(0).point_fields["late"].isnan().all())
    few = series.mesh.cell_fields["few"]
    assert int((~few.isnan()).sum()) == 1 and float(few.nan_to_num().sum()) == 3.5
    notes = " | ".join(series.mesh.notes)
    for said in ("'other'", "corners left out: G", "other meshes were left out: strange",
                 "'late' is NaN at 1 of 3 times", "vx [m/s], vy [m/s], vz [m/s]"):  # fmt: skip
        assert said in notes


def test_cartesian_grids(tmp_path):
    with h5py.File(tmp_path / "a.med", "w") as file:
        root = file.create_group("ENS_MAA/box")
        root.attrs["GTY"] = 0
        for i, axis in enumerate(([0, 1, 3], [0, 2], [0, 0.5, 1, 2]), 1):
            root[f"step/NOE/IN{i}"] = np.array(axis, float)
    mesh = read(tmp_path / "a.med")
    assert mesh.n_points == 24 and {b.type: len(b) for b in mesh.cells} == {"hexahedron": 6}
    assert float(mesh.cell_measures.sum()) == pytest.approx(12) and mesh.cell_measures.min() > 0


def test_faults_are_named(tmp_path):
    mesh = MESHES["mixed_solid"]
    path = tmp_path / "a.med"

    def refused(change, match):
        with h5py.File(path, "w") as file:
            change(write_mesh(file, mesh), file)
        with pytest.raises(InputError, match=match) as error:
            read(path)
        assert "\n" not in str(error.value)

    def bad_index(step, file):
        step["MAI/TE4/NOD"][0] = mesh.n_points + 1

    def short(step, file):
        del step["MAI/TE4/NOD"]
        step["MAI/TE4/NOD"] = np.arange(1, 8)

    def no_places(step, file):
        del step["NOE"]

    def no_cells(step, file):
        del step["MAI"]

    def no_mesh(step, file):
        del file["ENS_MAA"]
        file.create_group("ENS_MAA")

    def families(step, file):
        step["MAI/TE4/FAM"] = np.zeros(3)

    refused(bad_index, rf"index {mesh.n_points} is outside")
    refused(short, "7 nodes in cells of 4")
    refused(no_places, "NOE")
    refused(no_cells, "holds no cells")
    refused(no_mesh, "holds no mesh")
    refused(families, "FAM has 3 entries")
    with h5py.File(path, "w") as file:
        write_mesh(file, mesh)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="damaged or ends early"):
        read(path)


def test_files_of_salome(real_data):
    folder = real_data / "SalomePlatform__medcoupling/resources"
    for path in sorted(folder.glob("*.med")):
        found = read(path)
        mesh = found.mesh if isinstance(found, Series) else found
        with h5py.File(path) as file:
            root = next(iter(file["ENS_MAA"].values()))
            step = root if "NOE" in root else root[next(k for k in root if k != "FAS")]
            points = len(step["NOE/FAM"])
            types = {k: len(g["FAM"]) for k, g in step["MAI"].items()}
            values = len(step["NOE/COO"])
            x = step["NOE/COO"][:points]
        solid = {MED[b.type]: len(b) for b in mesh.cells}
        assert mesh.n_points == points and values == points * mesh.dim
        assert solid == {k: types[k] for k in solid}
        flat = types.keys() - solid.keys() - {"SE2"}
        faces = sum(types[k] for k in (flat or {"SE2"} & types.keys()))
        if faces and path.name != "pointe.med":
            assert sum(len(b.faces) for b in mesh.boundaries.values()) == faces
        np.testing.assert_array_equal(mesh.points[:, 0].numpy(), x)
        assert bool((mesh.cell_measures > 0).all())
    series = read(folder / "pointe.med")
    with h5py.File(folder / "pointe.med") as file:
        steps = list(file["CHA/fieldnodedouble"].values())
        times = sorted(float(s.attrs["PDT"]) for s in steps)
        want = {float(s.attrs["PDT"]): s[f"NOE/{ALL}/CO"][()] for s in steps}
    assert series.times.tolist() == times
    for i, t in enumerate(times):
        got = series.frame(i).point_fields["fieldnodedouble"].numpy()
        np.testing.assert_array_equal(got, want[t])


def test_middles_of_files_that_gmsh_writes(tmp_path):
    gmsh = pytest.importorskip("gmsh", reason="needs gmsh (extra `solve`)")
    gmsh.initialize(interruptible=False)
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        box = gmsh.model.occ.addBox(0, 0, 0, 1, 2, 3)
        gmsh.model.occ.synchronize()
        gmsh.model.addPhysicalGroup(3, [box], 7, "solid")
        gmsh.model.addPhysicalGroup(2, [1], 3, "left wall")
        gmsh.option.setNumber("Mesh.MeshSizeMin", 2)
        gmsh.model.mesh.generate(3)
        gmsh.model.mesh.setOrder(2)
        for suffix in ("med", "unv"):
            gmsh.write(str(tmp_path / f"a.{suffix}"))
    finally:
        gmsh.finalize()
    for suffix, wall in (("med", "left wall"), ("unv", "left_wall")):
        mesh = read(tmp_path / f"a.{suffix}")
        assert [b.type for b in mesh.cells] == ["tetra10"] and middles(mesh) < 1e-12
        assert float(mesh.cell_measures.sum()) == pytest.approx(6.0)
        assert len(mesh.regions["solid"]) == mesh.n_cells
        area = mesh.faces.area[mesh.boundaries[wall].faces].norm(dim=1).sum()
        assert float(area) == pytest.approx(6.0)
