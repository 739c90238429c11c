"""Body: what a surrogate needs to know about a body that is given by its surface."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from meshsim.check import InputError, check_finite, check_known
from meshsim.geometry.cells import Cells
from meshsim.geometry.distance import Closest, closest_points
from meshsim.geometry.measure import cell_normals, rings
from meshsim.geometry.mending import (
    Ridges,
    against,
    enclosed,
    inside_out,
    parts,
    repeated,
    ridges,
    weld,
)
from meshsim.geometry.pieces import Pieces, area_vectors, pieces
from meshsim.geometry.quality import degenerate
from meshsim.geometry.sampling import Samples, curvature_weights, sample_surface
from meshsim.geometry.tree import Surface
from meshsim.geometry.winding import winding_numbers
from meshsim.io import read
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series

WELD = 1e-6  # of the box's diagonal: points so near to each other are one
FLAT = 1e-12  # area over diagonal² of a face's box, below which it has none
DOUBT = 0.3  # by how much (sum of logarithms) turned sides must fit better before it is said
FACE, EDGE = {3: "triangle", 2: "segment"}, {"triangle": "edge", "segment": "end"}
UNITS = {
    0.001: "millimetres",
    0.01: "centimetres",
    0.0254: "inches",
    0.3048: "feet",
    1000.0: "metres where the others are millimetres",
}
# Bodies of meshes by their points, dropped with them.
_bodies = WeakTensorKeyDictionary()


@dataclass(frozen=True, eq=False)
class Body:
    """A body by its surface in space, or by its outline in the plane; `Body.of` makes one.

    Arguments:
        pieces: triangles or segments, wound so that normals point out.
        same: (P,) int64 for each of their points the first at its place.
        parts: (T,) int64 the connected part that each piece belongs to, the largest first.
        open_edges: how many edges (ends, in the plane) have a face on one side only.
        watertight: whether the surface closes, so that inside and outside are beyond doubt.
        notes: what was odd about it and what was done, one sentence each.
    """

    pieces: Pieces
    same: Tensor
    parts: Tensor
    open_edges: int
    watertight: bool
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        source: Mesh | Series | Sample | str | Path,
        *,
        boundary: str | Sequence[str] | None = None,
        scale: float = 1.0,
        lengths: tuple[float, float] | None = None,
        sides: Sequence[float] | None = None,
    ) -> Body:
        """The body of a mesh or file: looked over, put right where that is safe, and said.

        Points within a millionth of the box are made one; faces without area, and second ones at
        one place, are left out; faces wound against their neighbours, and parts that are inside
        out, are turned. Units and axes are never changed: a note asks.

        Arguments:
            source: a surface in space or lines in the plane; of a mesh that fills space its
                boundary. Of a series the mesh it rests on.
            boundary: names of the boundaries that are the body, where the mesh is of what flows
                about it.
            scale: coordinates are multiplied by it.
            lengths: shortest and longest body of the training data.
            sides: a typical body's box there, (D,), of one length unit with `lengths`.

        Raises:
            InputError: no surface, no area, coordinates that are not finite.

        >>> square = Mesh([[0.0, 0.0], [5.0, 0.0], [5.0, 2.0]], {"line": [[0, 2], [2, 1], [1, 0]]})
        >>> body = Body.of(square, lengths=(4.0, 6.0))
        >>> body, body.notes
        (Body(3 segments, 5 long, watertight), ('inside out, turned',))
        >>> body.distance(torch.tensor([[4.0, 1.0], [5.0, 5.0]])).distance
        tensor([-0.5571,  3.0000])
        """
        mesh = _mesh(source)
        points, blocks = surface_cells(mesh, boundary)
        if not math.isfinite(scale) or scale <= 0:
            raise InputError(f"`scale`: expected a number > 0, got {scale}")
        found = pieces(points.detach().cpu().double() * scale, [b.map(Tensor.cpu) for b in blocks])
        body = _checked(found)
        asked = []
        if lengths is not None:
            asked.append(_length_note(body.length, *lengths))
        if sides is not None:
            asked.append(_axes_note((body.box[1] - body.box[0]).tolist(), list(sides)))
        notes = (*body.notes, *(note for note in asked if note))
        return replace(body, notes=notes)

    @property
    def dim(self) -> int:
        """D, of the space about it."""
        return int(self.pieces.points.shape[1])

    @cached_property
    def box(self) -> Float[Tensor, "2 D"]:
        """Lowest and highest coordinates."""
        x = self.pieces.points[self.pieces.nodes].flatten(0, 1)
        return torch.stack([x.amin(0), x.amax(0)])

    @property
    def length(self) -> float:
        """The longest side of the box."""
        return float((self.box[1] - self.box[0]).max())

    @cached_property
    def area(self) -> float:
        """Of the surface; of an outline, its length."""
        return float(self.pieces.vectors().norm(dim=1).sum())

    @cached_property
    def volume(self) -> float:
        """Enclosed, ⅓ ∫ (x − x̄)·n dA (½ in the plane); where it is open only an estimate."""
        x = self.pieces.points[self.pieces.nodes]
        return float(enclosed(x, torch.zeros_like(self.parts)).sum())

    @cached_property
    def _cells(self) -> list[Cells]:
        return _cells(self.same[self.pieces.nodes])

    @cached_property
    def _whole(self) -> Surface:
        return Surface(self.pieces.points, self._cells)

    @cached_property
    def _firm(self) -> tuple[Surface, Tensor]:
        """Without faces that have no area, and so no normal; and which pieces are left."""
        keep = torch.ones(len(self.pieces.nodes), dtype=torch.bool)
        keep[degenerate(self.pieces.points, self._cells, FLAT)] = False
        ids = keep.nonzero().squeeze(1)
        if len(ids) == len(keep):
            return self._whole, ids
        return Surface(self.pieces.points, _cells(self._cells[0].nodes[ids])), ids

    def sample(self, n: int, seed: int | torch.Generator = 0, weights: str = "area") -> Samples:
        """Points on the surface: see `geometry.sampling.sample_surface`.

        Arguments:
            n: how many.
            seed: the same seed gives the same points.
            weights: "area", evenly, or "curvature", half of them where it bends.

        Returns:
            Samples; faces and fields are those of the mesh that the body came from.
        """
        check_known(weights, ("area", "curvature"), "weights")
        points, share = self.pieces.points, None
        if weights == "curvature":
            share = curvature_weights(points, self._cells)
        found = sample_surface(points, self._cells, n, seed, share)
        return found._replace(face=self.pieces.face[found.face], pieces=self.pieces)

    def distance(self, points: Float[Tensor, "M D"], tolerance: float = 0.1) -> Closest:
        """Distances from the surface, negative inside, the nearest places and the normals there.

        Inside is where the winding number exceeds ½.

        Arguments:
            points: (M, D).
            tolerance: of the winding number, of use only where thousands of edges are open.
        """
        surface, ids = self._firm
        found = closest_points(surface, points)
        inside = winding_numbers(self._whole, points.double(), tolerance) > 0.5
        return found._replace(
            distance=torch.where(inside, -found.distance, found.distance),
            face=self.pieces.face[ids[found.face]],
            pieces=self.pieces,
        )

    def __repr__(self) -> str:
        face = FACE[self.dim]
        state = "watertight" if self.watertight else f"{_many(self.open_edges, EDGE[face])} open"
        return f"Body({_many(len(self.pieces.nodes), face)}, {self.length:.6g} long, {state})"


def body_of(mesh: Mesh) -> Body:
    """`Body.of` a surface in space or a curve in the plane, kept as long as its points are.

    Raises:
        InputError: a mesh of another kind, no area, coordinates that are not finite.
    """
    if mesh.cell_dim != mesh.dim - 1:
        raise InputError(
            "expected a body, a surface in 3-D or a closed curve in 2-D,"
            f" got {mesh.cell_dim}-D cells in {mesh.dim}-D"
        )
    nodes = [block.nodes for block in mesh.cells]
    held = _bodies.get(mesh.points)
    if held is None or [id(n) for n in held[0]] != [id(n) for n in nodes]:
        held = _bodies[mesh.points] = (nodes, Body.of(mesh))
    return held[1]


def oriented(mesh: Mesh) -> Mesh:
    """A surface or curve whose cells are all wound so that normals look out.

    The same mesh where that is so already; else one without fields, turned as `Body.of` does. Cells
    that curve (quadratic ones) stay as they are.

    >>> square = Mesh([[0.0, 0.0], [5.0, 0.0], [5.0, 2.0]], {"line": [[0, 1], [2, 1], [2, 0]]})
    >>> oriented(square).cells[0].nodes.tolist()
    [[0, 1], [1, 2], [2, 0]]
    """
    if mesh.n_cells == 0 or mesh.cell_dim != mesh.dim - 1 or _consistent(mesh):
        return mesh
    body = body_of(mesh)
    before = pieces(mesh.points.detach().cpu().double(), [b.map(Tensor.cpu) for b in mesh.cells])
    was = torch.zeros(mesh.n_cells, mesh.dim).double()
    now = was.index_add(0, body.pieces.face, body.pieces.vectors())
    was = was.index_add(0, before.face, before.vectors())
    turn = (was * now).sum(1) < 0
    blocks, first = [], 0
    for block in mesh.cells:
        rows = turn[first : first + len(block)].to(block.nodes.device)
        first += len(block)
        if block.type in ("line", "triangle", "quad"):
            nodes = torch.where(rows[:, None], block.nodes.flip(1), block.nodes)
            block = Cells(block.type, nodes)
        elif block.offsets is not None:
            nodes = block.nodes.clone()
            for ids, ring in rings(block):
                some = ids[rows[ids]]
                at = block.offsets[some][:, None] + torch.arange(ring.shape[1], device=some.device)
                nodes[at] = block.nodes[at.flip(1)]
            block = Cells(block.type, nodes, block.offsets)
        blocks.append(block)
    return Mesh(mesh.points, blocks)


def _consistent(mesh: Mesh) -> bool:
    """Whether neighbours are wound alike, and neither the whole nor a part of it is inside out.

    Much quicker than to make a body of it. Points at one place count as one.
    """
    place = mesh.points.unique(dim=0, return_inverse=True)[1]  # (N,)
    if mesh.dim == 2:
        edges = place[torch.cat([block.nodes[:, :2] for block in mesh.cells])]
        first, alike = edges[:, 0], len(edges[:, 0].unique()) == len(edges)
        ends = mesh.points[torch.cat([block.nodes[:, :2] for block in mesh.cells])].double()
        middle, out = ends.mean(1), area_vectors(ends)
    else:
        found = [ring for block in mesh.cells for _, ring in rings(block)]
        edges = torch.cat([torch.stack([r, r.roll(-1, 1)], 2).flatten(0, 1) for r in found])
        edges = place[edges]
        key = edges[:, 0] * mesh.n_points + edges[:, 1]
        alike = len(key.unique()) == len(key)
        first = torch.cat(
            [b.nodes[:, 0] if b.offsets is None else b.nodes[b.offsets[:-1]] for b in mesh.cells]
        )
        first = place[first]
        middle, out = mesh.cell_centres.double(), cell_normals(mesh.points, mesh.cells).double()
    if not alike:
        return False
    joined = coo_array((np.ones(len(edges)), edges.cpu().numpy().T), shape=(mesh.n_points,) * 2)
    label = torch.from_numpy(connected_components(joined, directed=False)[1])
    label = label.to(first.device).long()[first]
    for part in (torch.zeros_like(label), label):
        count = torch.bincount(part)
        own = middle.new_zeros(len(count), mesh.dim).index_add(0, part, middle)
        away = middle - (own / count.clamp_min(1)[:, None])[part]
        volume = middle.new_zeros(len(count)).index_add(0, part, (away * out).sum(1))
        size = middle.new_zeros(len(count)).index_add(0, part, away.norm(dim=1) * out.norm(dim=1))
        if bool((volume < -1e-9 * size).any()):
            return False
    return True


def _mesh(source: Mesh | Series | Sample | str | Path) -> Mesh:
    if isinstance(source, str | Path):
        source = read(source)
    return source if isinstance(source, Mesh) else source.mesh


def surface_cells(mesh: Mesh, boundary: str | Sequence[str] | None) -> tuple[Tensor, list[Cells]]:
    """The cells of a surface or outline; normals out of what `mesh` is, or into what flows.

    Arguments:
        mesh: a surface, or one that fills space, whose outer faces are taken.
        boundary: names of the boundaries to take instead; normals look into the mesh.

    Returns:
        The mesh's points, and triangles or polygons in space, lines in the plane.

    Raises:
        InputError: a mesh without a surface, an unknown boundary.
    """
    if mesh.cell_dim == mesh.dim - 1 and boundary is None:
        return mesh.points, list(mesh.cells)
    if mesh.cell_dim != mesh.dim:
        what = f"{mesh.cell_dim}-D cells in {mesh.dim}-D space"
        hint = "" if boundary is None else " (which have no boundaries to choose)"
        raise InputError(f"`source`: expected a surface, or a mesh that has one, got {what}{hint}")
    faces = mesh.faces
    if boundary is None:
        ids = (faces.neighbour < 0).nonzero().squeeze(1)
    else:
        names = [boundary] if isinstance(boundary, str) else list(boundary)
        for name in names:
            check_known(name, mesh.boundaries, "boundary")
        ids = torch.cat([mesh.boundaries[name].faces for name in names] or [faces.owner[:0]])
    sizes = faces.offsets.diff()[ids]
    ends = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    at = torch.arange(int(ends[-1]), device=ids.device)
    row = torch.repeat_interleave(sizes)
    # Seen from the body the boundary of the fluid runs the other way round.
    step = at - ends[:-1][row] if boundary is None else ends[1:][row] - 1 - at
    nodes = faces.nodes[faces.offsets[:-1][ids][row] + step]
    if mesh.dim == 2:
        return mesh.points, [Cells("line", nodes.reshape(-1, 2))]
    return mesh.points, [Cells("polygon", nodes, ends)]


def _checked(found: Pieces) -> Body:
    """The body of these pieces, put right, with notes of what was odd."""
    notes: list[str] = []
    total, face = len(found.nodes), FACE[found.points.shape[1]]
    if total == 0:
        raise InputError("the body has no faces")
    x, same, moved = _welded(found)
    if moved:
        notes.append(
            f"{moved:,} points were within {WELD:g} of the body's size of another and made one"
        )
    nodes = same[found.nodes]
    real = (nodes != nodes.roll(-1, 1)).all(1)
    again, either = repeated(nodes)
    doubled = int((either & ~again & real).sum())
    # Drawn from both sides: as many faces again, back to back, are none of the body's.
    sheets = 2.2 * doubled >= int((real & ~again).sum())
    keep = real & ~(either if sheets else again)
    kept = found._replace(points=x, nodes=found.nodes[keep], face=found.face[keep])
    nodes = nodes[keep]
    flat = degenerate(x, _cells(nodes), FLAT)
    if len(flat) == len(nodes):
        raise InputError(f"the body has no area ({_many(total, face)})")
    if len(flat) + int((~real).sum()):
        without = _many(len(flat) + int((~real).sum()), face)
        notes.append(f"{without} of {total:,} without area left out")
    if int((again & real).sum()):
        notes.append(f"{_many(int((again & real).sum()), face)} there twice, left out once")
    if doubled:
        done = "left out" if sheets else "kept: inside is in doubt there"
        notes.append(f"{_many(doubled, face)} back to back with another, {done}")
    met, n = ridges(nodes), len(nodes)
    turn, one_sided = against(met, n)
    if bool(turn.any()):
        notes.append(f"{_many(int(turn.sum()), face)} wound against the others, turned")
    if one_sided:
        notes.append(f"{_many(one_sided, face)} on a part with one side only (a Möbius strip)")
    kept = _turned(kept, turn)
    met = ridges(same[kept.nodes])
    label = parts(met, n)
    nodes = same[kept.nodes]
    rim = torch.zeros(int(label.max()) + 1, dtype=torch.bool)
    rim[label[met.piece[met.uneven[met.ridge]]]] = True
    out = inside_out(x, nodes, label, rim)
    if bool(out.any()):
        which = "" if len(rim) == 1 else f"{int(out.sum()):,} of {_many(len(rim), 'part')} "
        seems = ", it seems" if bool((out & rim).any()) else ""
        notes.append(f"{which}inside out{seems}, turned")
    kept = _turned(kept, out[label])
    notes += _edge_notes(met, label, face)
    return Body(kept, same, label, met.open, not bool(met.uneven.any()), tuple(notes))


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _cells(nodes: Tensor) -> list[Cells]:
    return [Cells("triangle" if nodes.shape[1] == 3 else "line", nodes)]


def _welded(found: Pieces) -> tuple[Tensor, Tensor, int]:
    """Points with near ones at one place, the first at each, and how many were moved there."""
    used = torch.unique(found.nodes)
    own = found.points[used]
    check_finite(own, "points of the body")
    size = float((own.amax(0) - own.amin(0)).norm())
    corners = found.points[found.nodes]
    sides = (corners - corners.roll(-1, 1)).norm(dim=2).flatten()
    sides = sides[sides > 0].sort().values
    # Never a body's own small faces, as behind an airfoil in a wide domain.
    least = float(sides[len(sides) // 100]) if len(sides) else 0.0
    same = weld(own, min(WELD * size, least / 10))
    first = torch.arange(len(found.points))
    first[used] = used[same]
    x = found.points[first]
    moved = (x[used] != own).any(1)
    return x.nan_to_num(), first, int(moved.sum())


def _turned(found: Pieces, which: Tensor) -> Pieces:
    nodes = torch.where(which[:, None], found.nodes.flip(1), found.nodes)
    return found._replace(nodes=nodes)


def _edge_notes(met: Ridges, label: Tensor, face: str) -> list[str]:
    notes, sizes, edge = [], torch.bincount(label).tolist(), EDGE[face]
    if met.open:
        notes.append(
            f"not watertight: {_many(met.open, edge)} of {len(met.shared):,} with a {face} on one"
            " side only; what is inside goes by the winding number"
        )
    elif bool(met.uneven.any()):
        notes.append(f"not watertight: {face}s meet more often one way round than the other")
    if met.crowded:
        notes.append(f"{_many(met.crowded, edge)} shared by more than two {face}s")
    if len(sizes) > 1:
        listed = ", ".join(f"{n:,}" for n in sizes[:5]) + (", …" if len(sizes) > 5 else "")
        notes.append(f"{len(sizes):,} separate parts, of {listed} {face}s")
    return notes


def _length_note(length: float, low: float, high: float) -> str:
    """What to ask about the units of a body, given the lengths of others."""
    if not 0 < low <= high:
        raise InputError(f"`lengths`: expected (shortest, longest) > 0, got ({low}, {high})")
    if low <= length <= high:
        return ""
    start = f"the body is {length:,.4g} long; the training bodies were {low:,.4g} to {high:,.4g}"
    fits = [s for s in UNITS if 0.9 * low <= length * s <= 1.1 * high]
    if not fits or 0.5 * low <= length <= 2 * high:
        return f"{start}: outside the range"
    asked = " or ".join(UNITS[s] for s in fits)
    return f"{start}: are these {asked}? pass scale={' or '.join(f'{s:g}' for s in fits)}"


def _axes_note(sides: list[float], usual: list[float]) -> str:
    """What to ask about the axes of a body, given the usual sides of the box."""
    if len(usual) != len(sides) or min(usual) <= 0:
        raise InputError(f"`sides`: expected {len(sides)} numbers > 0, got {usual}")
    if min(sides) <= 0:
        return ""

    def unlike(order: tuple[int, ...]) -> float:
        logs = [math.log(sides[i] / usual[j]) for j, i in enumerate(order)]
        middle = sum(logs) / len(logs)  # units aside
        return sum(abs(v - middle) for v in logs)

    plain = tuple(range(len(sides)))
    best = min(itertools.permutations(plain), key=unlike)
    if unlike(best) + DOUBT >= unlike(plain):
        return ""
    own, theirs = (" × ".join(f"{v:,.4g}" for v in side) for side in (sides, usual))
    axes = ", ".join(f"{'xyz'[i]} as {'xyz'[j]}" for j, i in enumerate(best))
    return (
        f"the body's sides are {own}, the training bodies' {theirs}: they would fit if it were"
        f" turned to have its {axes}; is it lying on its side?"
    )
