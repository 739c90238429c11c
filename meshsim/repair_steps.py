"""The steps of a repair: merge, drop, turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from meshsim.geometry import checks, corners
from meshsim.geometry.cells import Cells, take
from meshsim.geometry.columns import signed
from meshsim.geometry.mirror import mirrored
from meshsim.mesh import Mesh, as_tensor
from meshsim.rows import equal_rows

SAME = 1e-6  # of a field's range: values that differ by less are one
SIMPLICES = ("vertex", "line", "triangle", "tetra")


class Work:
    """A mesh half mended: its cells, which old points and cells they are, and what was said."""

    def __init__(self, mesh: Mesh):
        self.mesh, self.blocks = mesh, list(mesh.cells)
        self.cells = torch.arange(mesh.n_cells)
        self.first = torch.arange(mesh.n_points)  # the point that stands for each
        self.done: list[str] = []
        self.left: list[str] = []

    def keep(self, wanted: Tensor) -> None:
        """Drop the cells that are not wanted."""
        rows = wanted.split([len(block) for block in self.blocks])
        pairs = zip(self.blocks, rows, strict=True)
        self.blocks = [take(block, some.nonzero().squeeze(1)) for block, some in pairs]
        self.cells = self.cells[wanted]

    def turn(self, ids: Tensor) -> None:
        """Cells the other way round."""
        rows = torch.zeros(len(self.cells), dtype=torch.bool)
        rows[ids] = True
        parts = rows.split([len(block) for block in self.blocks])
        self.blocks = [
            mirrored(block, some) if bool(some.any()) else block
            for block, some in zip(self.blocks, parts, strict=True)
        ]

    def among(self, types: Iterable[str]) -> Tensor:
        """(C,) bool: cells of some types."""
        known = set(types)
        parts = [torch.full((len(b),), b.type in known) for b in self.blocks]
        return torch.cat(parts)


def count(n: int, what: str) -> str:
    """`1 point`, `2 points`."""
    return f"{n} {what}{'s' * (n != 1)}"


def _differ(fields: Iterable[Any], a: Tensor, b: Tensor) -> Tensor:
    """(n,) bool: rows a and b of which some field has different values."""
    out = torch.zeros(len(a), dtype=torch.bool)
    for values in fields:
        x = as_tensor(values)
        rows = x.reshape(len(x), -1)
        if not rows.numel():
            continue
        p, q = rows[a].double(), rows[b].double()
        low, high = rows.double().nan_to_num().aminmax(dim=0)
        both = p.isnan() & q.isnan()
        out |= (~both & ~((p - q).abs() <= SAME * (high - low)) & (p != q)).any(1)
    return out


def merge(work: Work, frames: list[Mesh]) -> None:
    """Points at one place become one."""
    mesh, every = work.mesh, torch.arange(work.mesh.n_points)
    first = checks.same_places(mesh.points)
    double = (first != every).nonzero().squeeze(1)
    if not len(double):
        return
    fields = (values for frame in frames for values in frame.point_fields.values())
    other = double[_differ(fields, double, first[double])]
    first[other] = other
    if len(other):
        work.left.append(
            f"{count(len(other), 'point')} at the place of another left: fields differ there"
        )
    walls = _walls(mesh, first)
    closed = walls[first[walls] != walls]
    first[walls] = walls
    # Whatever was to be one with such a point stays by itself, too.
    tied = (torch.isin(first, walls) & (first != every)).nonzero().squeeze(1)
    first[tied] = tied
    if len(closed) + len(tied):
        work.left.append(
            f"{count(len(closed) + len(tied), 'point')} at the place of another left: merging"
            " them would close up a named boundary"
        )
    merged = int((first != every).sum())
    if merged:
        work.first = first
        work.blocks = [
            Cells(b.type, first[b.nodes], b.offsets, b.face_offsets) for b in work.blocks
        ]
        work.done.append(f"{count(merged, 'point')} merged with another at its place")


def _walls(mesh: Mesh, first: Tensor) -> Tensor:
    """Points of named outside faces that would be one with another outside face."""
    faces, named = mesh.faces, [b.faces for b in mesh.boundaries.values()]
    if not named:
        return first[:0]
    outside = faces.neighbour < 0
    wanted = torch.zeros(len(faces), dtype=torch.bool)
    wanted[torch.cat(named)] = True
    sizes, found = faces.offsets.diff(), [first[:0]]
    for k in sizes[outside].unique().tolist():
        ids = (outside & (sizes == k)).nonzero().squeeze(1)
        own = faces.nodes[faces.offsets[ids, None] + torch.arange(k)]
        order, new = equal_rows(first[own].sort(1).values, mesh.n_points)
        group = new.long().cumsum(0) - 1
        several = torch.bincount(group)[group] > 1
        touched = torch.zeros(int(group.max()) + 1, dtype=torch.bool)
        touched[group[wanted[ids[order]]]] = True
        found.append(own[order[several & touched[group]]].reshape(-1))
    return torch.cat(found).unique()


def drop(work: Work, frames: list[Mesh]) -> None:
    """Second cells, and simplices that list a point twice."""
    ids = checks.duplicate_cells(work.blocks)
    if len(ids):
        lead = checks.first_alike(work.blocks)[ids]
        types = torch.repeat_interleave(torch.tensor([len(b) for b in work.blocks]))
        fields = (values for frame in frames for values in frame.cell_fields.values())
        odd = _differ(fields, ids, lead) | (types[ids] != types[lead])
        if bool(odd.any()):
            work.left.append(
                f"{count(int(odd.sum()), 'cell')} with the points of another left: their fields"
                " or types differ"
            )
        keep = torch.ones(len(work.cells), dtype=torch.bool)
        keep[ids[~odd]] = False
        if not bool(keep.all()):
            work.keep(keep)
            work.done.append(f"{count(int((~keep).sum()), 'cell')} dropped: double")
    simplex = work.among(SIMPLICES)
    flat = torch.zeros(len(work.cells), dtype=torch.bool)
    sizes = signed(work.mesh.points, work.blocks)
    flat[checks.flat_cells(work.mesh.points, work.blocks, sizes)] = True
    twice = torch.zeros_like(flat)
    twice[checks.repeating_cells(work.blocks)] = True
    empty = simplex & twice
    if bool(empty.any()):
        work.keep(~empty)
        n = int(empty.sum())
        work.done.append(f"{count(n, 'cell')} dropped: without size, a point listed twice")
    rest = int((flat & ~empty).sum())
    if rest:
        work.left.append(f"{count(rest, 'cell')} without size left: the neighbours need them")


def orient(work: Work) -> None:
    """Cells that are listed the wrong way round."""
    points, mesh = work.mesh.points, work.mesh
    blocks = [block for block in work.blocks if len(block)]
    if not blocks:
        return
    work.blocks = blocks
    if mesh.cell_dim == mesh.dim:
        ids = checks.carelessly_wound(blocks, signed(points, blocks))
        bad = torch.isin(ids, corners.folded(points, blocks)) | work.among(["polyhedron"])[ids]
        ids = ids[~bad]
        if len(ids):
            work.turn(ids)
            work.done.append(f"{count(len(ids), 'cell')} turned: listed the wrong way round")
        return
    if mesh.dim != 3:
        return
    found = checks.sheet(points, blocks)
    rows = torch.zeros(len(work.cells), dtype=torch.bool)
    rows[found.against] = True
    rows[found.inside_out] ^= True
    if bool(rows.any()):
        work.turn(rows.nonzero().squeeze(1))
        work.done.append(f"{count(int(rows.sum()), 'cell')} turned: wound against the others")
    if found.one_sided:
        n = count(found.one_sided, "cell")
        work.left.append(f"{n} on one-sided parts left: they have no outside")
