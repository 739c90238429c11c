"""A picture of the mesh itself: its cells, boundaries and regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from meshsim.check import InputError, check_known
from meshsim.geometry.cells import Cells
from meshsim.geometry.topology import match_faces
from meshsim.mesh import Mesh
from meshsim.render.board import Board
from meshsim.render.layout import Frame
from meshsim.render.output import save_png, target
from meshsim.render.panel import Mark, Panel
from meshsim.render.raster import stroke
from meshsim.render.scene import Surface, pair_keys, surface
from meshsim.render.values import frame
from meshsim.render.view import look, used_points
from meshsim.rows import slices
from meshsim.sample import Sample
from meshsim.series import Series

Array = NDArray[Any]
Colour = tuple[int, int, int]

PLAIN: Colour = (233, 236, 241)
THIN: Colour = (90, 95, 105)  # lines and points, which have no edges
# Okabe and Ito's colours, which the colour-blind can tell apart too
NAMED: tuple[Colour, ...] = (
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (120, 94, 240),
    (160, 150, 60),
)
MOST = 24  # names with a colour of their own
REST: Colour = (158, 162, 170)  # of those beyond
LONG = 34  # letters of a name in the legend
SHOW = ("boundaries", "regions")


def _colour(i: int) -> Colour:
    """Eight colours, then the same lighter and darker."""
    if i >= MOST:
        return REST
    towards, share = ((0, 0.0), (255, 0.55), (0, 0.45))[i // len(NAMED)]
    base = NAMED[i % len(NAMED)]
    return tuple(round((1 - share) * c + share * towards) for c in base)  # type: ignore[return-value]


def _pale(colour: Colour) -> Colour:
    return tuple(round(0.35 * c + 0.65 * 255) for c in colour)  # type: ignore[return-value]


def _short(name: str) -> str:
    """A long name without its middle: what tells names apart is mostly at an end."""
    return name if len(name) <= LONG else f"{name[: LONG - 14]}…{name[-13:]}"


@dataclass(frozen=True)
class Names:
    """What is coloured, and how.

    Arguments:
        boundaries: {name: colour}.
        regions: {name: colour}.
        legend: (colour, text) of each, and how many are left out.
    """

    boundaries: Mapping[str, Colour]
    regions: Mapping[str, Colour]
    legend: Sequence[tuple[Colour, str]]


def named(mesh: Mesh, show: Sequence[str] = SHOW, only: Sequence[str] = ()) -> Names:
    """The colours of boundaries and regions, and the legend.

    Arguments:
        mesh: has them.
        show: "boundaries", "regions" or both.
        only: names of those to be coloured; empty: all.

    Raises:
        InputError: a name that the mesh does not have, or none to be shown.
    """
    some = [name for kind in show for name in getattr(mesh, kind)]
    for name in only:
        check_known(name, some, "boundary" if "boundaries" in show else "region")
    boundaries = [n for n in mesh.boundaries if n in (only or some)] if SHOW[0] in show else []
    regions = [n for n in mesh.regions if n in (only or some)] if SHOW[1] in show else []
    colours = {name: _colour(i) for i, name in enumerate(boundaries)}
    tints = {name: _pale(_colour(i + len(boundaries))) for i, name in enumerate(regions)}
    if len(regions) == 1 and len(mesh.regions[regions[0]]) == mesh.n_cells:
        tints = {regions[0]: PLAIN}  # one region of everything needs no colour
    elif not boundaries:
        tints = {name: _colour(i) for i, name in enumerate(regions)}
    entries = [(colour, _short(name)) for name, colour in colours.items()]
    kind = "region " if boundaries else ""
    entries += [(colour, _short(kind + name)) for name, colour in tints.items()]
    if len(entries) > MOST:
        entries = [*entries[:MOST], (REST, f"and {len(entries) - MOST} more")]
    return Names(colours, tints, entries)


def cells(
    obj: Mesh | Series | Sample,
    out: str | Path = "mesh.png",
    *,
    show: Sequence[str] = SHOW,
    only: Sequence[str] = (),
    title: str | None = None,
    cut: str | None = None,
    view: str = "auto",
    up: str | None = None,
    width: int = 1200,
) -> Path:
    """Draw the cells of a mesh, its boundaries and regions in colours with their names.

    Arguments:
        obj: a mesh, a series or a sample of one branch.
        out: a .png.
        show: "boundaries", "regions" or both.
        only: names of those to be coloured; of a volume nothing else but these boundaries is
            drawn then, so that what stands inside is seen. Empty: all.
        title: None: the number of points and of cells by type.
        cut: see `field`, like every other argument that is not named here.

    Returns:
        `out`.

    Raises:
        InputError: an unknown name, axis or suffix.
        WorkError: `out` cannot be written.
    """
    path = target(out, (".png",))
    image = drawn(obj, show=show, only=only, title=title, cut=cut, view=view, up=up, width=width)
    return save_png(image, path)


def drawn(
    obj: Mesh | Series | Sample,
    *,
    show: Sequence[str] = SHOW,
    only: Sequence[str] = (),
    title: str | None = None,
    cut: str | None = None,
    view: str = "auto",
    up: str | None = None,
    width: int = 1200,
) -> Array:
    """The pixels of what `cells` writes, (height, width, 3) uint8."""
    whole, _ = frame(obj)
    names = named(whole, show, only)
    alone = bool(only) and whole.cell_dim == 3 and bool(names.boundaries)
    mesh = patches(whole, list(names.boundaries)) if alone else whole
    eye = look(used_points(mesh), view, up)
    board = Board(
        [Frame(None)],
        eye,
        title=_counts(whole) if title is None else title,
        width=width,
        legend=names.legend,
    )
    shown = surface(mesh, linear=True, cut=cut)
    painted = np.full((mesh.n_cells, 3), PLAIN if mesh.cell_dim > 1 else THIN, dtype=np.float64)
    for name, colour in (names.boundaries if alone else names.regions).items():
        painted[mesh.regions[name].cpu().numpy()] = colour
    line = 3.5 * max(width / 1000, 0.8)
    sides = {} if whole.cell_dim != 2 else _sides(mesh, list(names.boundaries))
    colours = list(names.boundaries.values())
    marks = [] if eye.flat else _marks(mesh, shown, sides, colours, 2 * line)
    size = board.boxes[0][2:]
    panel = Panel(mesh, eye, *size, edges=True, shown=shown, marks=marks)
    pixels = panel.cell_colours(painted)
    if mesh.cell_dim == 3 and names.boundaries:
        found = _patches(mesh, shown, list(names.boundaries))[panel.triangle]
        on = found >= 0
        pixels[on] = np.array(colours)[found[on]]
    image = panel.paint(pixels)
    if eye.flat:
        place = eye.pixels(mesh.points.detach().cpu().double().numpy(), *size)[:, :2]
        for ends, colour in zip(sides.values(), colours, strict=False):
            image = stroke(image, place[ends], line, colour)
    return board.compose([image])


def patches(mesh: Mesh, names: Sequence[str]) -> Mesh:
    """Boundaries of a volume as a surface, a region each.

    Arguments:
        mesh: of three-dimensional cells.
        names: of its boundaries.

    Returns:
        Polygons on the points of `mesh`.
    """
    faces = torch.cat([mesh.boundaries[name].faces for name in names])
    if not len(faces):
        raise InputError(f"boundary {', '.join(names)}: has no faces")
    corners, offsets = slices(mesh.faces.offsets, faces)
    ends = np.cumsum([0, *(len(mesh.boundaries[name].faces) for name in names)])
    return Mesh(
        mesh.points,
        [Cells("polygon", mesh.faces.nodes[corners], offsets)],
        regions={
            name: torch.arange(a, b) for name, (a, b) in zip(names, pairwise(ends), strict=True)
        },
    )


def _counts(mesh: Mesh) -> str:
    kinds: dict[str, int] = {}
    for block in mesh.cells:
        kinds[block.type] = kinds.get(block.type, 0) + len(block)
    cells = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    return f"{mesh.n_points} points; cells: {cells}"


def _sides(mesh: Mesh, names: Sequence[str]) -> dict[str, Array]:
    """The faces of boundaries of two-dimensional cells, as pairs of points: {name: (n, 2)}."""
    first = mesh.faces.offsets[:-1].cpu().numpy()
    nodes = mesh.faces.nodes.cpu().numpy()
    starts = {name: first[mesh.boundaries[name].faces.cpu().numpy()] for name in names}
    return {name: np.stack([nodes[s], nodes[s + 1]], 1) for name, s in starts.items()}


def _marks(
    mesh: Mesh, shown: Surface, sides: dict[str, Array], colours: Sequence[Colour], width: float
) -> list[Mark]:
    """Boundaries of a surface in space, as sides of triangles that others may hide."""
    keys = pair_keys(shown.corners, np.roll(shown.corners, -1, 1), mesh.n_points)
    known = [pair_keys(ends[:, 0], ends[:, 1], mesh.n_points) for ends in sides.values()]
    return [
        Mark(np.isin(keys, k), colour, 1.0, width)
        for k, colour in zip(known, colours, strict=False)
    ]


def _patches(mesh: Mesh, shown: Surface, names: Sequence[str]) -> Array:
    """(M,) which of the boundaries each triangle of a solid's surface belongs to, or −1."""
    assert shown.polygons is not None and shown.polygon is not None
    face = match_faces(mesh.faces, [shown.polygons], mesh.n_points).cpu().numpy()
    of_face = np.full(len(mesh.faces) + 1, -1)  # the last one stands for no face
    for i, name in enumerate(names):
        of_face[mesh.boundaries[name].faces.cpu().numpy()] = i
    return np.asarray(of_face[face][shown.polygon])
