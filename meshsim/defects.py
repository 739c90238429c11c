"""What is wrong with a mesh, in sentences: points, cells, boundaries, figures of merit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from meshsim.geometry import checks, corners, hanging, quality
from meshsim.geometry import figures as merit
from meshsim.geometry.columns import signed
from meshsim.mesh import Mesh

FIRST = 8  # numbers that a finding lists
ERROR, WARNING, INFORMATION = "error", "warning", "information"


@dataclass(frozen=True)
class Finding:
    """One kind of defect.

    Arguments:
        kind: its name, as in "inverted".
        severity: "error" (not fit for use), "warning" or "information".
        count: how many there are; `of` what: points, cells, faces (edges of a surface), values.
        examples: the numbers of the first; cells as they lie in the file, faces as `mesh.faces`.
        at: where the first one is, or None.
        text: what is wrong, in a sentence.
        where: field, boundary or branch that it is about, or "".
    """

    kind: str
    severity: str
    count: int
    of: str
    examples: tuple[int, ...]
    at: tuple[float, ...] | None
    text: str
    where: str = ""


class _Mesh:
    """A mesh under examination: findings with their places and numbers of the file."""

    def __init__(self, mesh: Mesh, limit: int):
        self.mesh, self.limit = mesh, limit
        self.twins = checks.duplicate_cells(mesh.cells)

    def found(self, kind: str, severity: str, of: str, ids: Tensor, text: str) -> Iterator[Finding]:
        """The finding, if there are any ids; its text begins with how many."""
        if not len(ids):
            return
        mesh, first = self.mesh, int(ids[0])
        match of:
            case "points":
                at = mesh.points[first]
            case "cells":
                at = mesh.cell_centres[first]
                ids = ids if mesh.file_order is None else mesh.file_order[ids].sort().values
            case _:
                at = mesh.faces.centre[first]
        count = len(ids)
        listed = tuple(ids[: self.limit].tolist())
        place = tuple(at.tolist()) if bool(at.isfinite().all()) else None
        yield Finding(kind, severity, count, of, listed, place, f"{count} {text}")


def of_mesh(mesh: Mesh, limit: int = FIRST) -> tuple[list[Finding], dict[str, Any]]:
    """Findings about points, cells and boundaries, and the figures of merit."""
    see = _Mesh(mesh, limit)
    bad = (~mesh.points.isfinite().all(1)).nonzero().squeeze(1)
    found = [
        *see.found("points_not_finite", ERROR, "points", bad, "coordinates are NaN or infinite")
    ]
    found += _doubles(see)
    numbers: dict[str, Any] = {}
    if not len(bad):
        found += _shapes(see)
        if mesh.cell_dim == mesh.dim and mesh.cell_dim > 1:
            figures, numbers = _figures(see)
            found += figures
    found += _boundaries(see)
    found += [Finding("note", INFORMATION, 1, "notes", (), None, note) for note in mesh.notes]
    return found, numbers


def _doubles(see: _Mesh) -> Iterator[Finding]:
    mesh, n = see.mesh, see.mesh.n_points
    same = checks.same_places(mesh.points)
    ids = (same != torch.arange(n)).nonzero().squeeze(1)
    text = "points lie where another one does: cells that use different ones are not joined there"
    yield from see.found("duplicate_points", WARNING, "points", ids, text)
    ids = quality.unused_points(mesh.cells, n)
    yield from see.found("orphan_points", WARNING, "points", ids, "points belong to no cell")
    ids = see.twins
    text = "cells have the very points of another cell: the same place is filled twice"
    yield from see.found("duplicate_cells", ERROR, "cells", ids, text)
    ids = checks.repeating_cells(mesh.cells)
    text = "cells list a point twice, as a wedge written as a hexahedron does"
    yield from see.found("collapsed", INFORMATION, "cells", ids, text)


def _shapes(see: _Mesh) -> Iterator[Finding]:
    mesh = see.mesh
    points, blocks = mesh.points, mesh.cells
    sizes = signed(points, blocks)
    flat = checks.flat_cells(points, blocks, sizes)
    text = f"cells have no {('', 'length', 'area', 'volume')[mesh.cell_dim]}"
    yield from see.found("degenerate", ERROR, "cells", flat, text)
    crowded = checks.crowded(mesh.faces, see.twins).nonzero().squeeze(1)
    solid = mesh.cell_dim == mesh.dim
    face = ("", "points", "edges", "faces")[mesh.cell_dim]
    text = f"{face} are shared by more than two cells" + (", which must overlap" if solid else "")
    yield from see.found("non_manifold", ERROR if solid else WARNING, face, crowded, text)
    if mesh.cell_dim < 2:
        return
    if solid:
        yield from _windings(see, sizes, flat)
    ids = corners.folded(points, blocks)
    curved = torch.cat([torch.full((len(b),), b.type[-1].isdigit()) for b in blocks])[ids]
    text = "cells are dented: at a corner their measure is negative (finite elements fail there)"
    yield from see.found("folded", WARNING, "cells", ids[~curved], text)
    text = "quadratic cells fold over: at a node the determinant of their map is negative"
    yield from see.found("folded_quadratic", ERROR, "cells", ids[curved], text)
    if mesh.cell_dim == 3:
        ids = checks.open_polyhedra(points, blocks)
        text = (
            "polyhedra do not close: the area vectors of their faces do not add up to zero, or an"
            " edge has not two faces"
        )
        yield from see.found("open_polyhedra", ERROR, "cells", ids, text)
    if solid:
        yield from _hanging(see)
    elif mesh.dim == 3:
        yield from _surface(see)


def _windings(see: _Mesh, sizes: Tensor, flat: Tensor) -> Iterator[Finding]:
    blocks = see.mesh.cells
    turned = checks.turned_cells(blocks, sizes)
    turned[flat] = False
    ids = turned.nonzero().squeeze(1)
    listed = checks.carelessly_wound(blocks, sizes) if len(ids) else ids
    some = int(turned[listed].sum())
    text = "cells are inside out, against the others of their type" + (
        f"; {some} of them are only listed the wrong way round (--repair)" if some else ""
    )
    yield from see.found("inverted", ERROR, "cells", ids, text)
    first = 0
    for block, most in zip(blocks, checks.mirrored_blocks(blocks, sizes), strict=True):
        if most:
            every = torch.arange(first, first + len(block))
            text = f"{block.type} cells are listed the other way round than VTK's, throughout"
            yield from see.found("mirrored", INFORMATION, "cells", every, text)
        first += len(block)


def _hanging(see: _Mesh) -> Iterator[Finding]:
    mesh = see.mesh
    free = torch.ones(len(mesh.faces), dtype=torch.bool)
    for boundary in mesh.boundaries.values():
        free[boundary.faces] = False  # what a file names is meant to be there
    found = hanging.hanging_faces(mesh.points, mesh.faces, free)
    face = "edges" if mesh.cell_dim == 2 else "faces"
    text = (
        f"{face} are covered by smaller ones that do not match (hanging nodes, a T-junction):"
        " the cells on either side are not joined"
    )
    yield from see.found("hanging_faces", ERROR, face, found.covered, text)
    if found.left_out:
        text = f"{found.left_out} faces had too many others near them to be looked at for hanging"
        yield Finding("hanging_not_checked", INFORMATION, found.left_out, face, (), None, text)


def _surface(see: _Mesh) -> Iterator[Finding]:
    mesh = see.mesh
    found = checks.sheet(mesh.points, mesh.cells)
    text = "cells are wound against their neighbours: their normals point to the other side"
    yield from see.found("orientation", ERROR, "cells", found.against, text)
    text = "cells of closed parts have normals that point into what they enclose"
    yield from see.found("inside_out", WARNING, "cells", found.inside_out, text)
    if found.one_sided:
        text = (
            f"{found.one_sided} cells lie on a one-sided part (a Möbius strip): it has no outside"
        )
        yield Finding("one_sided", WARNING, found.one_sided, "cells", (), None, text)
    rim = (mesh.faces.cell_offsets.diff() == 1).nonzero().squeeze(1)
    text = (
        f"edges have a cell on one side only: the surface is open, along {found.loops}"
        f" rim{'s' * (found.loops != 1)}"
    )
    yield from see.found("open_surface", WARNING, "edges", rim, text)


def _figures(see: _Mesh) -> tuple[list[Finding], dict[str, Any]]:
    mesh = see.mesh
    found = merit.figures(mesh.points, mesh.cells, mesh.faces, directions(mesh))
    n = mesh.faces.n_internal
    skew, outer = found.skewness[:n], found.skewness[n:]
    face = "edges" if mesh.cell_dim == 2 else "faces"
    findings: list[Finding] = []
    numbers = {}
    for name, values, most, of, mean in (
        ("non_orthogonality", found.angle, merit.ANGLE, face, found.mean_angle),
        ("skewness", skew, merit.SKEW, face, None),
        ("boundary_skewness", outer, merit.OUTER_SKEW, face, None),
        ("aspect_ratio", found.aspect, merit.ASPECT, "cells", None),
    ):
        if not len(values):
            continue
        ids = (values > most).nonzero().squeeze(1)
        mean = float(values.mean()) if mean is None else mean
        top = float(values.max())
        numbers[name] = {"max": top, "mean": mean, "over": len(ids), "threshold": most}
        unit = "°" if name == "non_orthogonality" else ""
        text = f"{of} have a {spoken(name)} over {most:g}{unit} (the worst {top:.6g}{unit})"
        shift = n if values is outer else 0
        worst = ids[values[ids].argsort(descending=True, stable=True)] + shift
        findings += see.found(name, WARNING, of, worst, text)
    return findings, numbers


def spoken(name: str) -> str:
    """`non_orthogonality` as it is written in a sentence."""
    return name.replace("non_", "non-").replace("_", " ")


def directions(mesh: Mesh) -> Tensor:
    """(D,) bool: directions in which the mesh is not one cell thick by its patches.

    Those normal to patches of kind `empty`, and those in which a `wedge` turns, are out
    (OpenFOAM, `polyMesh::geometricD`).
    """
    used = torch.ones(mesh.dim, dtype=torch.bool)
    for boundary in mesh.boundaries.values():
        if len(boundary.faces) and boundary.kind in ("empty", "wedge"):
            area = mesh.faces.area[boundary.faces].double()
            if boundary.kind == "empty":
                used &= area.abs().sum(0) <= 1e-6 * area.abs().sum(0).norm()
            else:
                mean = area.sum(0)
                used &= mean.abs() <= 0.5 * mean.norm()
    return used


def _boundaries(see: _Mesh) -> Iterator[Finding]:
    mesh = see.mesh
    if not mesh.boundaries:
        return
    faces = mesh.faces
    times = torch.zeros(len(faces), dtype=torch.int64)
    for boundary in mesh.boundaries.values():
        times[boundary.faces.unique()] += 1
    outside = faces.cell_offsets.diff() == 1
    face = ("", "points", "edges", "faces")[mesh.cell_dim]
    bare = (outside & (times == 0)).nonzero().squeeze(1)
    text = f"{face} on the outside belong to no named boundary"
    yield from see.found("unnamed_faces", WARNING, face, bare, text)
    twice = (times > 1).nonzero().squeeze(1)
    yield from see.found("shared_faces", WARNING, face, twice, f"{face} are in several boundaries")
    for name, boundary in mesh.boundaries.items():
        inside = boundary.faces[~outside[boundary.faces]].unique()
        text = f"{face} of boundary {name!r} lie inside, between cells"
        for f in see.found("inside_faces", INFORMATION, face, inside, text):
            yield replace(f, where=name)
