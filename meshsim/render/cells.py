"""A picture of the mesh itself: its cells, boundaries and regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
MOST = 16  # entries of the legend


def _colour(i: int) -> Colour:
    return NAMED[i % len(NAMED)]


def _pale(colour: Colour) -> Colour:
    return tuple(round(0.35 * c + 0.65 * 255) for c in colour)  # type: ignore[return-value]


def cells(
    obj: Mesh | Series | Sample,
    out: str | Path = "mesh.png",
    *,
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
        title: None: the number of points and of cells by type.
        cut: see `field`, like every other argument that is not named here.

    Returns:
        `out`.
    """
    path = target(out, (".png",))
    mesh, _ = frame(obj)
    eye = look(used_points(mesh), view, up)
    names = [(_colour(i), name) for i, name in enumerate(mesh.boundaries)]
    tints = [
        (_pale(_colour(i + len(names))), f"region {name}") for i, name in enumerate(mesh.regions)
    ]
    if len(mesh.regions) == 1 and len(next(iter(mesh.regions.values()))) == mesh.n_cells:
        tints = [(PLAIN, tints[0][1])]  # one region of everything needs no colour
    legend = names + tints
    if len(legend) > MOST:
        legend = [*legend[:MOST], ((255, 255, 255), f"and {len(legend) - MOST} more")]
    board = Board(
        [Frame(None)],
        eye,
        title=_counts(mesh) if title is None else title,
        width=width,
        legend=legend,
    )
    shown = surface(mesh, linear=True, cut=cut)
    painted = np.full((mesh.n_cells, 3), PLAIN if mesh.cell_dim > 1 else THIN, dtype=np.float64)
    for (colour, _), members in zip(tints, mesh.regions.values(), strict=True):
        painted[members.cpu().numpy()] = colour
    line = 3.5 * max(width / 1000, 0.8)
    sides = [] if mesh.cell_dim != 2 else _sides(mesh)
    marks = [] if eye.flat else _marks(mesh, shown, sides, 2 * line)
    size = board.boxes[0][2:]
    panel = Panel(mesh, eye, *size, edges=True, shown=shown, marks=marks)
    pixels = panel.cell_colours(painted)
    if mesh.cell_dim == 3:
        found = _patches(mesh, shown)[panel.triangle]
        on = found >= 0
        pixels[on] = np.array([_colour(i) for i in range(len(names))] or [PLAIN])[found[on]]
    image = panel.paint(pixels)
    if eye.flat:
        place = eye.pixels(mesh.points.detach().cpu().double().numpy(), *size)[:, :2]
        for i, ends in enumerate(sides):
            image = stroke(image, place[ends], line, _colour(i))
    return save_png(board.compose([image]), path)


def _counts(mesh: Mesh) -> str:
    kinds: dict[str, int] = {}
    for block in mesh.cells:
        kinds[block.type] = kinds.get(block.type, 0) + len(block)
    cells = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    return f"{mesh.n_points} points; cells: {cells}"


def _sides(mesh: Mesh) -> list[Array]:
    """The faces of each boundary of two-dimensional cells, as pairs of points: (n, 2) each."""
    first = mesh.faces.offsets[:-1].cpu().numpy()
    nodes = mesh.faces.nodes.cpu().numpy()
    starts = [first[boundary.faces.cpu().numpy()] for boundary in mesh.boundaries.values()]
    return [np.stack([nodes[start], nodes[start + 1]], 1) for start in starts]


def _marks(mesh: Mesh, shown: Surface, sides: list[Array], width: float) -> list[Mark]:
    """Boundaries of a surface in space, as sides of triangles that others may hide."""
    keys = pair_keys(shown.corners, np.roll(shown.corners, -1, 1), mesh.n_points)
    known = [pair_keys(ends[:, 0], ends[:, 1], mesh.n_points) for ends in sides]
    return [Mark(np.isin(keys, k), _colour(i), 1.0, width) for i, k in enumerate(known)]


def _patches(mesh: Mesh, shown: Surface) -> Array:
    """(M,) the boundary that each triangle of a solid's surface belongs to, or −1."""
    assert shown.polygons is not None and shown.polygon is not None
    face = match_faces(mesh.faces, [shown.polygons], mesh.n_points).cpu().numpy()
    of_face = np.full(len(mesh.faces) + 1, -1)  # the last one stands for no face
    for i, boundary in enumerate(mesh.boundaries.values()):
        of_face[boundary.faces.cpu().numpy()] = i
    return np.asarray(of_face[face][shown.polygon])
