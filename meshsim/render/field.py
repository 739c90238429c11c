"""A picture of one field."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from meshsim.mesh import Mesh
from meshsim.render import colour
from meshsim.render.board import Board
from meshsim.render.colour import Number
from meshsim.render.layout import Frame
from meshsim.render.output import save_png, target
from meshsim.render.panel import Panel
from meshsim.render.values import frame, quantity, with_unit
from meshsim.render.view import look, used_points
from meshsim.sample import Sample
from meshsim.series import Series

Legend = list[tuple[tuple[int, int, int], str]]


def missing(values: np.ndarray, location: str) -> Legend:
    """The legend's entry for values that are not finite, if there are any."""
    count = int((~np.isfinite(values)).sum())
    return [(colour.MISSING, f"no value ({count} {location}s)")] if count else []


def field(
    obj: Mesh | Series | Sample,
    name: str | None = None,
    out: str | Path = "field.png",
    *,
    component: int | str | None = None,
    cmap: str | None = None,
    clim: tuple[Number, Number] | None = None,
    title: str | None = None,
    unit: str = "",
    time: Number | None = None,
    edges: bool = False,
    cut: str | None = None,
    view: str = "auto",
    up: str | None = None,
    width: int = 1200,
) -> Path:
    """Draw a field on its mesh, with a scale bar.

    Arguments:
        obj: a mesh, a series (its last time) or a sample of one branch.
        name: a point or cell field; None: the first there is, or the mesh where it has none.
        out: a .png.
        component: of a vector, 0 or "x" and so on; None: its magnitude.
        cmap: a Matplotlib colour map; None: viridis, or RdBu for values around zero.
        clim: least and greatest value of the scale; None: those of the field, without outliers.
        title: None: the field's name and unit.
        unit: of the field.
        time: of a series.
        edges: draw the edges of the cells too.
        cut: "x", "y" or "z": leave away the cells behind the middle along that axis.
        view: "auto", or the axis to look along, in 3-D.
        up: the axis that points upwards, in 3-D; None: z, or the shortest of a flat body.
        width: in pixels; the height follows from the mesh.

    Returns:
        `out`.

    Raises:
        InputError: an unknown field, component, colour map, axis or suffix.
        WorkError: `out` cannot be written.
    """
    path = target(out, (".png",))
    image = drawn(
        obj,
        name,
        component=component,
        cmap=cmap,
        clim=clim,
        title=title,
        unit=unit,
        time=time,
        edges=edges,
        cut=cut,
        view=view,
        up=up,
        width=width,
    )
    return save_png(image, path)


def drawn(
    obj: Mesh | Series | Sample,
    name: str | None = None,
    *,
    component: int | str | None = None,
    cmap: str | None = None,
    clim: tuple[Number, Number] | None = None,
    title: str | None = None,
    unit: str = "",
    time: Number | None = None,
    edges: bool = False,
    cut: str | None = None,
    view: str = "auto",
    up: str | None = None,
    width: int = 1200,
) -> np.ndarray:
    """The pixels of what `field` writes, (height, width, 3) uint8."""
    mesh, at = frame(obj, time)
    if name is None and not mesh.point_fields and not mesh.cell_fields:
        from meshsim.render.cells import drawn as drawn_cells

        return drawn_cells(mesh, title=title, cut=cut, view=view, up=up, width=width)
    shown = quantity(mesh, name, component)
    values = shown.values(mesh)
    scale = colour.scale(colour.span([values]), cmap=cmap, clim=clim, unit=unit)
    eye = look(used_points(mesh), view, up)
    stamp = "" if at is None else f"t = {at:.4g}"
    board = Board(
        [Frame(scale)],
        eye,
        title=with_unit(shown.label, unit) if title is None else title,
        width=width,
        stamp=stamp,
        legend=missing(values, shown.location),
    )
    panel = Panel(mesh, eye, *board.boxes[0][2:], edges=edges, cut=cut)
    return board.compose([panel.image(values, shown.location, scale)], stamp)
