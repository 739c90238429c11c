"""What each format can hold, and the sentences that say what it cannot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from meshsim.check import InputError
from meshsim.geometry.cells import TYPES
from meshsim.io.raw.cgns_cells import TYPES as CGNS
from meshsim.io.to_text import GMSH, SU2
from meshsim.io.to_vtk import NUMBERS
from meshsim.io.to_xdmf import NUMBERS as XDMF
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series

POLYGONS = frozenset({"triangle", "quad", "polygon"})


@dataclass(frozen=True)
class Holds:
    """What a format can hold.

    Arguments:
        types: cell types.
        fields: fields on points and cells.
        exact: fields keep their dtype and shape.
        boundaries, boundary_fields, kinds, regions, globals: as in `Mesh`.
        overlapping: regions may share cells.
        series: times.
        parameters: those of a Sample.
        order: cells of different types in any order.
        plane: two-dimensional meshes come back as such.
        points: points keep their order and dtype.
    """

    types: frozenset[str]
    fields: bool = True
    exact: bool = True
    boundaries: bool = True
    boundary_fields: bool = True
    kinds: bool = True
    regions: bool = True
    overlapping: bool = True
    globals: bool = True
    series: bool = False
    parameters: bool = False
    order: bool = True
    plane: bool = True
    points: str = ""


_VTK = frozenset(NUMBERS)
_SURFACE: dict[str, Any] = {
    "boundaries": False, "boundary_fields": False, "kinds": False, "globals": False,
    "plane": False,
}  # fmt: skip
HOLDS: dict[str, Holds] = {
    "npz": Holds(frozenset(TYPES), series=True, parameters=True),
    "pvd": Holds(_VTK, series=True),
    "vtu": Holds(_VTK),
    "vtk": Holds(_VTK),
    "vtp": Holds(POLYGONS | {"vertex", "line"}),
    "xdmf": Holds(frozenset(XDMF) & frozenset(TYPES), series=True),
    "cgns": Holds(frozenset(name for name, _ in CGNS.values()) | {"polygon", "polyhedron"}),
    "msh": Holds(
        frozenset(GMSH),
        exact=False,
        kinds=False,
        overlapping=False,
        globals=False,
        points="are in double precision",
    ),
    "su2": Holds(
        frozenset(SU2) - {"vertex"},
        fields=False,
        boundary_fields=False,
        kinds=False,
        regions=False,
        globals=False,
        points="are in double precision",
    ),
    "ply": Holds(POLYGONS, regions=False, **_SURFACE),
    "obj": Holds(
        POLYGONS | {"line"},
        fields=False,
        overlapping=False,
        points="are in double precision",
        **_SURFACE,
    ),
    "off": Holds(
        POLYGONS, fields=False, regions=False, points="are in double precision", **_SURFACE
    ),
    "stl": Holds(
        POLYGONS,
        fields=False,
        regions=False,
        points="are in single precision, listed triangle by triangle (their order changes)",
        **_SURFACE,
    ),
}


def branch_of(obj: Mesh | Series | Sample) -> Mesh | Series:
    """The one branch of a sample; others as they are."""
    return obj.branch if isinstance(obj, Sample) else obj


def check(obj: Mesh | Series | Sample, name: str) -> None:
    """Raise `InputError` if a format cannot hold the cells, or the times, at all."""
    holds, branch = HOLDS[name], branch_of(obj)
    if isinstance(branch, Series) and not holds.series:
        able = ", ".join(f".{n}" for n, h in HOLDS.items() if h.series)
        raise InputError(f".{name} holds one time, the series has {len(branch)}: write {able}")
    meshes = [s.mesh for s in branch.segments] if isinstance(branch, Series) else [branch]
    for mesh in meshes:
        wrong = sorted({block.type for block in mesh.cells} - holds.types)
        if wrong:
            rest = [n for n, h in HOLDS.items() if not set(wrong) - h.types]
            raise InputError(
                f".{name} cannot hold cells of type {', '.join(wrong)}"
                f" (formats that can: {', '.join(rest) or 'none'})"
            )


def sentences(obj: Mesh | Series | Sample, name: str) -> list[str]:
    """What is lost when an object is written in a format; [] where nothing is."""
    holds, branch, out = HOLDS[name], branch_of(obj), []
    mesh = branch.mesh if isinstance(branch, Series) else branch

    def lost(what: str, found: Iterable[str]) -> None:
        names = ", ".join(found)
        out.append(f".{name} cannot hold {what}: {names} {'are' if ',' in names else 'is'} lost")

    if isinstance(obj, Sample) and obj.parameters and not holds.parameters:
        lost("parameters", obj.parameters)
    fields = {**mesh.point_fields, **mesh.cell_fields}
    if isinstance(branch, Series):
        first = branch.frame(0)
        fields = {**first.point_fields, **first.cell_fields}
    if fields and not holds.fields:
        lost("fields", fields)
    elif not holds.exact:
        out += _changed(name, fields, mesh)
    complex_fields = [key for key, values in fields.items() if values.is_complex()]
    if complex_fields and holds.fields and name != "npz":
        raise InputError(f".{name} cannot hold complex numbers: {', '.join(complex_fields)}")
    if mesh.boundaries and not holds.boundaries:
        lost("boundaries", mesh.boundaries)
    elif mesh.boundaries:
        with_fields = [key for key, part in mesh.boundaries.items() if part.fields]
        if with_fields and not holds.boundary_fields:
            lost("fields on boundaries", with_fields)
        kinds = [key for key, part in mesh.boundaries.items() if part.kind]
        if kinds and not holds.kinds:
            lost("what kind a boundary is", kinds)
    if mesh.regions and not holds.regions:
        lost("regions", mesh.regions)
    elif mesh.regions and not holds.overlapping:
        cells = torch.cat([torch.unique(rows) for rows in mesh.regions.values()])
        if len(torch.unique(cells)) < len(cells):
            out.append(f".{name} cannot hold regions that share cells: such cells keep the last")
    if mesh.global_fields and not holds.globals:
        lost("global fields", mesh.global_fields)
    if mesh.dim == 2 and not holds.plane:
        out.append(f".{name} is always read as three-dimensional: the plane gets z = 0")
    if holds.points and (name == "stl" or mesh.points.dtype != torch.float64):
        out.append(f"points in .{name} {holds.points}")
    if name == "stl" and any(block.type != "triangle" for block in mesh.cells):
        out.append(".stl holds triangles only: other cells are split into triangles")
    if name == "vtp" and any(block.type == "polygon" for block in mesh.cells):
        out.append("polygons of three or four corners in .vtp come back as triangles and quads")
    if name in ("obj", "off", "ply") and any(b.type == "polygon" for b in mesh.cells):
        out.append(f"polygons of three or four corners in .{name} come back as such types")
    return out


def _changed(name: str, fields: dict[str, Tensor], mesh: Mesh) -> list[str]:
    """Fields that a format of numbers in double precision holds in another form."""
    out = []
    every = {**fields, **{k: v for b in mesh.boundaries.values() for k, v in b.fields.items()}}
    other = [key for key, values in every.items() if values.dtype != torch.float64]
    if other:
        out.append(f"fields in .{name} are in double precision: {', '.join(other)}")
    natural = {1, 3, 9} | ({2} if mesh.dim == 2 else set())
    wide = [
        key
        for key, values in every.items()
        if values.dim() > 2 or (values.dim() == 2 and values.shape[1] not in natural - {1})
    ]
    zero = [
        key
        for key, values in every.items()
        if mesh.dim == 2 and values.dim() == 2 and values.shape[1] == 3 and not values[:, 2].any()
    ]
    if zero:
        out.append(f"vectors in .{name} with a third component of zero lose it: {', '.join(zero)}")
    if wide:
        out.append(f"fields in .{name} have 1, 3 or 9 components: {', '.join(wide)} are padded")
    return out
