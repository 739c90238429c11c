"""Every file of other people that is of a known format, read once, and a dozen known by heart."""

import tarfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.io import FORMATS, attach, format_of, guard, read
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series

# name: files that must be read (of so many that are there). The others hold no cells, or are
# damaged, or name an HDF5 file that was not given away.
FLOORS = {
    "cgns": (19, 19), "vtu": (51, 51), "vtk": (15, 15), "vtp": (1, 1), "vts": (1, 1),
    "vtm": (1, 1), "msh": (48, 48), "su2": (12, 12), "obj": (48, 55), "stl": (15, 18),
    "ply": (13, 21), "off": (6, 6), "xdmf": (8, 9), "openfoam": (6, 6), "exodus": (4, 4),
    "ensight": (5, 5), "unv": (4, 4), "med": (5, 5), "bdf": (7, 9), "inp": (17, 20), "avs": (7, 7),
}  # fmt: skip


def cases(real_data: Path, tmp_path: Path) -> list[Path]:
    """OpenFOAM cases: folders with a polyMesh, and one in an archive."""
    with tarfile.open(real_data / "gfngoncalves__openfoam_cases/damBreak.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    samples = real_data / "fluiddyn__fluidfoam/output_samples"
    airfoil = "OpenFOAM__OpenFOAM-dev/tutorials/incompressibleFluid/airFoil2D"
    found = [samples / name for name in ("ascii", "box", "ascii/vsmall", "ascii/par1")]
    return [*found, real_data / airfoil, *(p for p in tmp_path.iterdir() if p.is_dir())]


def sound(found, path: Path) -> None:
    """What was read is whole: not empty, no index outside, fields of the right length."""
    branches = list(found.branches.values()) if isinstance(found, Sample) else [found]
    for branch in branches:
        for part in branch.segments if isinstance(branch, Series) else [branch]:
            mesh = part if isinstance(part, Mesh) else part.frame(len(part) - 1)
            assert mesh.n_points and mesh.n_cells, path
            for block in mesh.cells:
                block.check(mesh.n_points)
            assert torch.isfinite(mesh.points).all()
            for boundary in mesh.boundaries.values():
                assert len(boundary.faces)
                assert boundary.faces.min() >= 0 and boundary.faces.max() < len(mesh.faces)
                for values in boundary.fields.values():
                    assert len(values) == len(boundary.faces)
            for rows in mesh.regions.values():
                assert rows.min() >= 0 and rows.max() < mesh.n_cells
            if mesh.file_order is not None:
                assert torch.equal(mesh.file_order.sort().values, torch.arange(mesh.n_cells))


def test_every_file_is_a_sound_mesh_or_a_sound_complaint(real_data, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 60.0)
    files = [path for path in sorted(real_data.rglob("*")) if path.is_file()]
    done: Counter = Counter()
    for path in [*files, *cases(real_data, tmp_path)]:
        try:
            form = format_of(path)
        except InputError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            continue
        if path.is_file() and form.name == "openfoam":
            continue
        try:
            sound(read(path), path)
            done[form.name, "read"] += 1
        except InputError as error:
            assert "\n" not in str(error) and str(path) in str(error) and len(str(error)) < 700
            assert "longer than" not in str(error)
            done[form.name, "refused"] += 1
    short = {
        name: (done[name, "read"], floor, total)
        for name, (floor, total) in FLOORS.items()
        if done[name, "read"] < floor
    }
    assert not short, f"read, floor, files: {short}"
    assert {name for name, _ in done} <= set(FORMATS)


def counts(mesh: Mesh) -> dict[str, int]:
    return {block.type: len(block) for block in mesh.cells}


def faces(mesh: Mesh) -> dict[str, int]:
    return {name: len(part.faces) for name, part in mesh.boundaries.items()}


KNOWN = {
    # points, dimension, cells, faces of boundaries
    "su2code__TestCases/disc_adj_rans/cylinder/mesh_cylinder.su2": (
        3226, 2, {"triangle": 1218, "quad": 2565}, {"Cylinder": 76, "Farfield": 28},
    ),
    "su2code__TestCases/aeroelastic/mesh_NACA64A010_hybrid_inv.su2": (
        6532, 2, {"triangle": 5729, "quad": 3584}, {"airfoil": 128, "farfield": 39},
    ),
    "su2code__TestCases/coupled_cht/disc_adj_unsteadyCHT_cylinder/MeshCHT.su2": (
        4680, 2, {"quad": 4524},
        {"cylinder_fluid": 78, "farfield": 78, "inner_pin": 78, "cylinder_solid": 78},
    ),
    "PyFR__PyFR-Test-Cases/2d-inc-cylinder/inc-cylinder.msh": (
        7345, 2, {"triangle6": 3231, "quad9": 196}, None,
    ),
    "PyFR__PyFR-Test-Cases/2d-viscous-shock-tube/viscous-shock-tube.msh.xz": (
        80601, 2, {"quad": 80000}, None,
    ),
    "kinnala__scikit-fem/docs/examples/meshes/mixedtriquad.msh": (
        56, 2, {"triangle": 16, "quad": 36}, {"boundary": 22},
    ),
    "kinnala__scikit-fem/docs/examples/meshes/quadraticsphere.msh": (
        1204, 3, {"tetra10": 640}, {"surface 1": 322},
    ),
    "OpenFOAM__OpenFOAM-dev/applications/utilities/mesh/conversion/gmshToFoam/gmsh/CubeVer1.msh": (
        167, 3, {"tetra": 622}, {"27": 36, "28": 36, "29": 144},
    ),
    "redbKIT__redbKIT/Problems/FEM_CFD_Dfg2D/mesh/obstacleDFG_Coarse.msh": (
        3899, 2, {"triangle": 7472}, None,
    ),
    "CGNS__CGNS/src/tests/data/cgnslib_vers-3110_hdf5-110.cgns": (
        2786, 3, {"tetra": 13761},
        {"Default Domain Default": 1582, "in1": 14, "in2": 14, "out": 20},
    ),
    "su2code__TestCases/euler/wedge/mesh_wedge_inv.cgns": (
        3750, 2, {"quad": 3626}, {"inlet": 49, "lower": 74, "outlet": 49, "upper": 74},
    ),
    "pyvista__vtk-data/Data/blow.vtk": (687, 3, {"triangle": 928, "quad": 129}, {}),
    "pyvista__vtk-data/Data/can.vtu": (6724, 3, {"hexahedron": 4800}, {}),
    "pyvista__vtk-data/Data/QuadraticWedge.vtu": (93, 3, {"wedge15": 16}, {}),
    "pyvista__vtk-data/Data/cow.vtp": (
        2903, 3, {"triangle": 734, "quad": 2519, "polygon": 10}, {},
    ),
    "FluidityProject__fluidity/tests/data/tet.vtu": (4, 3, {"tetra": 1}, {"boundary": 4}),
    "assimp__assimp/test/models/OBJ/spider.obj": (762, 3, {"triangle": 1368}, {}),
    "mikedh__trimesh/models/fuze.obj": (502, 3, {"triangle": 1000}, {}),
    "assimp__assimp/test/models/STL/Spider_ascii.stl": (722, 3, {"triangle": 1368}, None),
    "OpenFOAM__OpenFOAM-dev/tutorials/incompressibleFluid/airFoil2D": (
        21812, 3, {"hexahedron": 10720},
        {"inlet": 134, "outlet": 160, "walls": 78, "frontAndBack": 21440},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_files_known_by_heart(name, real_data):
    points, dim, cells, boundaries = KNOWN[name]
    mesh = read(real_data / name)
    assert isinstance(mesh, Mesh)
    assert (mesh.n_points, mesh.dim, counts(mesh)) == (points, dim, cells)
    if boundaries is not None:
        assert faces(mesh) == boundaries
    if mesh.cell_dim == mesh.dim:
        assert bool((mesh.cell_measures > 0).all())


def test_shapenet_cars_are_read_exactly(real_data):
    """PLAID's files: points in their order, pressure to the bit, against h5py."""
    folder = real_data / "PLAID-lib__plaid/tests/containers/dataset_cgns/data/train"
    cars = sorted(folder.glob("sample_*/meshes/mesh_*.cgns"))
    assert len(cars) == 10
    for car in cars:
        mesh = read(car)
        with h5py.File(car) as file:
            zone = file["Base_2_3/Zone"]
            axes = [zone[f"GridCoordinates/Coordinate{a}/ data"][()] for a in "XYZ"]
            cells = zone["Elements_TRI_3/ElementConnectivity/ data"][()].reshape(-1, 3) - 1
            pressure = zone["VertexFields/pressure/ data"][()]
        np.testing.assert_array_equal(mesh.points.numpy(), np.stack(axes, 1))
        np.testing.assert_array_equal(mesh.cells[0].nodes.numpy(), cells)
        np.testing.assert_array_equal(mesh.point_fields["pressure"].numpy(), pressure)
        assert mesh.notes == () and not mesh.boundaries and mesh.file_order is None


def test_cgns_twins_agree(real_data):
    """One mesh as HDF5, as ADF (through VTK) and as su2."""
    adf = read(
        real_data / "su2code__Tutorials/compressible_flow/Inviscid_Wedge/mesh_wedge_inv.cgns"
    )
    hdf = read(real_data / "su2code__TestCases/euler/wedge/mesh_wedge_inv.cgns")
    su2 = read(real_data / "su2code__TestCases/euler/wedge/mesh_wedge_inv.su2")
    assert torch.equal(adf.cells[0].nodes, hdf.cells[0].nodes)
    assert torch.equal(adf.points, hdf.points)
    assert faces(adf) == faces(hdf)
    assert su2.n_points == hdf.n_points and su2.n_cells == hdf.n_cells
    assert faces(su2) == faces(hdf)
    torch.testing.assert_close(su2.cell_measures.sum(), hdf.cell_measures.sum())


def test_su2_steps_on_their_mesh(real_data):
    folder = real_data / "su2code__TestCases/disc_adj_rans/cylinder"
    mesh = read(folder / "mesh_cylinder.su2")
    series = attach(mesh, str(folder / "solution_flow_*.csv"), dt=5e-4)
    assert isinstance(series, Series) and len(series) == 10
    assert series.frame(9).point_fields["Velocity"].shape == (3226, 2)
    rows = np.loadtxt(folder / "solution_flow_00004.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(series.frame(4).point_fields["Pressure"].numpy(), rows[:, 7])
    wall = mesh.boundary_points("Cylinder")
    assert float(series.frame(4).point_fields["Velocity"][wall].abs().max()) == 0.0


def test_series_of_other_programs(real_data, tmp_path):
    dolfin = read(real_data / "pyvista__vtk-data/Data/dolfinx/no_checkpoint.xdmf")
    assert dolfin.times.tolist() == [0, 1, 2, 3, 4] and set(dolfin.point_fields) == {"f_5"}
    with h5py.File(real_data / "pyvista__vtk-data/Data/dolfinx/no_checkpoint.h5") as file:
        values = file["VisualisationVector/3"][()].reshape(-1)
    np.testing.assert_array_equal(dolfin.frame(3).point_fields["f_5"].numpy(), values)
    # the same function as a checkpoint of degrees of freedom
    check = read(real_data / "pyvista__vtk-data/Data/dolfinx/checkpoint.xdmf")
    assert check.times.tolist() == dolfin.times.tolist()
    assert torch.isfinite(check.frame(4).point_fields["label_u"]).all()
    meshio = read(real_data / "pyvista__vtk-data/Data/meshio/out.xdmf")
    assert meshio.times.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert meshio.frame(2).point_fields["u"].shape == (4, 2)
    box = read(real_data / "fluiddyn__fluidfoam/output_samples/box")
    assert box.times.tolist() == [0, 1, 2, 3, 4] and set(box.cell_fields) == {"U", "nut", "p"}
    assert box.frame(4).cell_fields["U"].shape == (7200, 3)
    assert counts(box.mesh) == {"hexahedron": 7200}
    dam = read(next(p for p in cases(real_data, tmp_path) if p.parent == tmp_path))
    assert len(dam) == 21 and counts(dam.mesh) == {"hexahedron": 2268}
    water = dam.field("alpha.water")
    volume = (water * dam.mesh.cell_measures).sum(1)
    torch.testing.assert_close(volume, volume[:1].expand(21), rtol=0.03, atol=0)
