"""Small files of every format, of our own making, for fuzzing to begin with: `SEEDS[format]`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from meshsim.io import write
from meshsim.sample import Sample
from meshsim.series import Series
from tests import trajectory_files
from tests.helpers import MESHES
from tests.io import (
    test_abaqus,
    test_ensight,
    test_exodus,
    test_fluent,
    test_foam,
    test_med,
    test_nastran,
    test_side_files,
    test_tecplot,
    test_unv,
)


def plain(name: str, suffix: str) -> Callable[[Path], Path]:
    """A file that `write` makes of one of the tests' meshes."""

    def make(folder: Path) -> Path:
        mesh = MESHES[name]
        fields = {"p": torch.rand(mesh.n_points), "v": torch.rand(mesh.n_points, mesh.dim)}
        write(mesh.replace(point_fields=fields, cell_fields={}), folder / f"a.{suffix}")
        return folder / f"a.{suffix}"

    return make


def text(suffix: str, said: Callable[[], str]) -> Callable[[Path], Path]:
    """A file with this text."""

    def make(folder: Path) -> Path:
        (folder / f"a.{suffix}").write_text(said())
        return folder / f"a.{suffix}"

    return make


def unv() -> str:
    mesh = MESHES["mixed_solid"]
    blocks = [(b.type, b.nodes.tolist()) for b in mesh.cells]
    group = test_unv.dataset(2467, test_unv.group(1, "inlet", [(8, 1), (8, 2)]))
    return str(test_unv.nodes(mesh.points) + test_unv.cells(blocks) + group)


def bdf() -> str:
    return str(test_nastran.bulk(test_nastran.GRIDS, test_nastran.SOLID))


def inp() -> str:
    return test_abaqus.NODES + test_abaqus.BRICKS + "*Nset, nset=low\n1, 2\n"


def avs() -> str:
    return (
        "5 2 1 1 0\n1 0 0 0\n2 1 0 0\n3 1 1 0\n4 0 1 0\n5 2 0 0\n1 1 quad 1 2 3 4\n"
        "2 1 tri 2 5 3\n1 1\np, Pa\n1 0.5\n2 1.5\n3 2.5\n4 3\n5 4\n1 1\nq, m\n1 7\n2 8\n"
    )


def med(folder: Path) -> Path:
    with h5py.File(folder / "a.med", "w") as file:
        test_med.write_mesh(file, MESHES["mixed_solid"])
    return folder / "a.med"


def exodus(folder: Path) -> Path:
    test_exodus.column(folder / "a.exo")
    return folder / "a.exo"


def fluent(binary: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "a.msh").write_bytes(test_fluent.fluent(binary=binary))
        return folder / "a.msh"

    return make


def ensight(binary: bool) -> Callable[[Path], Path]:
    return lambda folder: test_ensight.case(folder, binary)


def foam(binary: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        case = folder / "case"
        mesh = MESHES["polyhedra"]
        test_foam.case(case, mesh, binary)
        test_foam.field(case, "p", "0", np.arange(float(mesh.n_cells)), binary)
        return case

    return make


def trajectory(folder: Path) -> Path:
    trajectory_files.cylinder_flow(folder, "train", 1, times=3)
    return folder / "train.tfrecord"


def trajectories(folder: Path) -> Path:
    trajectory_files.hdf5(folder / "train.h5", trajectory_files.cylinder_flow(folder, "a", 2, 3))
    (folder / "a.tfrecord").unlink()
    return folder / "train.h5"


def cfdbench(folder: Path) -> Path:
    case = folder / "case"
    case.mkdir()
    for axis in "uv":
        np.save(case / f"{axis}.npy", np.random.default_rng(0).random((3, 4, 5)))
    about = {"vel_in": 1.5, "density": 1, "width": 2.0, "height": 1}
    (case / "case.json").write_text(json.dumps(about))
    return case


def sample(folder: Path) -> Path:
    mesh = MESHES["channel"]
    series = Series(mesh, [0.0, 1.0], {"v": torch.rand(2, mesh.n_points)})
    write(Sample({"mesh": series}, {"inflow": 1.5}), folder / "a.npz")
    return folder / "a.npz"


PLY = (
    test_side_files.HEAD.replace("property float z\n", "property float z\nproperty int n_0\n")
    + "0 0 0 5\n1 0 0 6\n0 1 0 7\n3 0 1 2\n"
)
TECPLOT = (
    test_tecplot.HEAD + test_tecplot.TRIANGLES,
    test_tecplot.HEAD + test_tecplot.TRIANGLES + test_tecplot.GRID,
    test_tecplot.CENTRED,
    test_tecplot.BLOCK,
)


def pvd(folder: Path) -> Path:
    mesh = MESHES["channel"]
    write(Series(mesh, [0.0, 1.0], {"v": torch.rand(2, mesh.n_points)}), folder / "a.pvd")
    return folder / "a.pvd"


SEEDS: dict[str, tuple[Callable[[Path], Path], ...]] = {
    "msh": (plain("mixed_solid", "msh"), plain("channel", "msh")),
    "su2": (plain("mixed_solid", "su2"), plain("channel", "su2")),
    "cgns": (plain("polyhedra", "cgns"), plain("mixed_solid", "cgns")),
    "xdmf": (plain("mixed_solid", "xdmf"), plain("polygons", "xdmf")),
    "npz": (plain("polyhedra", "npz"), plain("polygons", "npz"), sample),
    "stl": (plain("cube_surface", "stl"),),
    "obj": (plain("cube_surface", "obj"),),
    "off": (plain("cube_surface", "off"),),
    "ply": (plain("cube_surface", "ply"), text("ply", lambda: PLY)),
    "openfoam": (foam(False), foam(True)),
    "fluent": (fluent(False), fluent(True)),
    "unv": (text("unv", unv),),
    "med": (med,),
    "bdf": (text("bdf", bdf),),
    "inp": (text("inp", inp),),
    "avs": (text("avs", avs),),
    "tfrecord": (trajectory,),
    "h5": (trajectories,),
    "cfdbench": (cfdbench,),
    # of VTK, which may crash: the child is what holds it
    "vtu": (plain("polyhedra", "vtu"), plain("mixed_solid", "vtu")),
    "vtk": (plain("mixed_solid", "vtk"),),
    "pvd": (pvd,),
    "ensight": (ensight(False), ensight(True)),
    "exodus": (exodus,),
    "tecplot": tuple(text("dat", lambda said=said: said) for said in TECPLOT),
}
VTK = ("vtu", "vtk", "pvd", "ensight", "exodus", "tecplot")
