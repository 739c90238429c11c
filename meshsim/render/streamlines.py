"""A picture of the streamlines around a body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from meshsim.check import InputError, check_known, check_shape
from meshsim.geometry.topology import face_cells
from meshsim.mesh import ArrayLike, Mesh, as_tensor
from meshsim.render import colour
from meshsim.render.board import Board
from meshsim.render.colour import Number
from meshsim.render.layout import Frame
from meshsim.render.output import save_png, target
from meshsim.render.panel import Panel
from meshsim.render.raster import thicken
from meshsim.render.scene import Surface, surface
from meshsim.render.trace import Lines, box, main_axis, rake, trace
from meshsim.render.values import frame, quantity, with_unit
from meshsim.render.view import View, look, used_points
from meshsim.sample import Sample
from meshsim.series import Series

Array = NDArray[Any]
Window: TypeAlias = tuple[ArrayLike, ArrayLike]

BODY, FLUID, INK = (206, 209, 214), (243, 244, 246), (20, 22, 28)
WIDTH, HALO = 1.7, 1.9  # of a line in pixels, at 1200 across; of the white behind it, in widths


def streamlines(
    obj: Mesh | Series | Sample,
    name: str = "velocity",
    out: str | Path = "streamlines.png",
    *,
    seeds: int | ArrayLike = 40,
    body: Mesh | str | None = None,
    on_body: str | None = None,
    window: Window | None = None,
    cmap: str | None = None,
    clim: tuple[Number, Number] | None = None,
    title: str | None = None,
    unit: str = "",
    body_unit: str = "",
    time: Number | None = None,
    view: str = "auto",
    up: str | None = None,
    width: int = 1200,
) -> Path:
    """Draw streamlines of a velocity field, coloured by speed, around a body.

    Arguments:
        obj: the fluid's mesh, a series (its last time) or a sample of one branch.
        name: a point or cell field of D components; see `trace`.
        out: a .png.
        seeds: how many lines, see `rake`; or (S, D) points they go through.
        body: its surface; or the name of a boundary of the mesh.
        on_body: a scalar field of the body to colour it by; None: grey.
        window: lower and upper corner (D,) of what is shown; None: about the body, the wake more
            than the rest, or all of the mesh.
        cmap: see `field`, like every other argument that is not named here.
        clim: least and greatest speed of the scale.
        unit: of the velocity.
        body_unit: of `on_body`.

    Returns:
        `out`.

    Raises:
        InputError: what `trace` and `field` raise; no line in the window.
        WorkError: `out` cannot be written.
    """
    path = target(out, (".png",))
    mesh, at = frame(obj, time)
    skin = _part(mesh, body) if isinstance(body, str) else body
    if skin is not None and skin.dim != mesh.dim:
        raise InputError(f"`body`: expected points in {mesh.dim}-D, got {skin.dim}-D")
    start = rake(mesh, name, skin, seeds) if isinstance(seeds, int) else seeds
    lines = trace(mesh, name, start)
    low, high = _window(mesh, name, skin) if window is None else _corners(window, mesh.dim)
    ends, speeds = _inside(lines, low, high)
    if not len(ends):
        raise InputError(f"{name}: no streamline in the window (do the seeds lie in the mesh?)")
    scale = colour.scale(colour.span([speeds]), cmap=cmap or "viridis", clim=clim, unit=unit)
    paint = _Paint.of(skin, on_body, body_unit)
    eye = _eye(mesh, skin, ends, low, high, view, up)
    stamp = "" if at is None else f"t = {at:.4g}"
    board = Board(
        [Frame(scale)],
        eye,
        title=with_unit(f"streamlines of {name}", unit) if title is None else title,
        width=width,
        stamp=stamp,
        legend=paint.legend,
    )
    pixels = board.boxes[0][2:]
    image = _drawn(mesh, skin, paint, ends, scale.colour(speeds), eye, *pixels)
    return save_png(board.compose([image], stamp), path)


def _corners(window: Window, dim: int) -> tuple[Array, Array]:
    made = [as_tensor(corner).detach().cpu().double() for corner in window]
    for corner in made:
        check_shape(corner, (dim,), "window")
    low, high = (corner.numpy() for corner in made)
    if not (low < high).all():
        raise InputError(f"`window`: expected a lower and an upper corner, got {window}")
    return low, high


def _window(mesh: Mesh, name: str, body: Mesh | None) -> tuple[Array, Array]:
    """The body's box with half its length ahead and once behind, half its size at the sides."""
    low, high = box(mesh)
    if body is None:
        return low, high
    first, last = box(body)
    along, down = main_axis(mesh, name)
    before = np.full(mesh.dim, 0.55 * (last - first).max() if mesh.dim == 2 else np.inf)
    after = before.copy()
    before[along], after[along] = 0.5 * (last - first)[along], (last - first)[along]
    if not down:
        before, after = after, before
    return np.maximum(low, first - before), np.minimum(high, last + after)


def _inside(lines: Lines, low: Array, high: Array) -> tuple[Array, Array]:
    """Pieces of lines cut off at a box: (S, 2, D) their ends, (S,) the speed in their middle."""
    pieces = lines.segments()
    a, b = lines.points[pieces].transpose(1, 0, 2)
    way = b - a
    with np.errstate(divide="ignore", invalid="ignore"):
        enter, leave = (
            np.where(way > 0, near - a, far - a) / way for near, far in ((low, high), (high, low))
        )
    still = way == 0
    within = (a >= low) & (a <= high)
    enter = np.where(still, np.where(within, 0.0, np.inf), enter).max(1).clip(0.0)
    leave = np.where(still, np.where(within, 1.0, -np.inf), leave).min(1).clip(None, 1.0)
    some = enter < leave
    enter, leave, way = enter[some, None], leave[some, None], way[some]
    ends = np.stack([a[some] + enter * way, a[some] + leave * way], 1)
    return ends, lines.speed[pieces[some]].mean(1)


def _eye(
    mesh: Mesh, body: Mesh | None, ends: Array, low: Array, high: Array, view: str, up: str | None
) -> View:
    """In the plane all of the window; in space the body's own view, and all lines in it."""
    if mesh.dim == 2:
        return look(np.stack([low, high]), view, up)
    solid = used_points(mesh if body is None else body)
    eye = look(solid, view, up)
    seen = np.concatenate([ends.reshape(-1, 3), solid]) @ eye.axes[:2].T
    grow = 0.02 * (seen.max(0) - seen.min(0)).max()
    return View(eye.axes, seen.min(0) - grow, seen.max(0) + grow)


def _part(mesh: Mesh, name: str) -> Mesh:
    """A boundary as a mesh of its own, with the fields of its faces, of the cells at them, and
    of its points."""
    check_known(name, mesh.boundaries, "boundary")
    part, faces = mesh.boundaries[name], mesh.faces
    block = face_cells(faces, part.faces, mesh.dim)
    owner = faces.owner[part.faces]
    fields = {key: values[owner] for key, values in mesh.cell_fields.items()} | dict(part.fields)
    points = {k: v for k, v in mesh.point_fields.items() if k not in part.fields}
    return Mesh(mesh.points, [block], point_fields=points, cell_fields=fields)


@dataclass(frozen=True, eq=False)
class _Paint:
    """The body's colours and what they mean.

    Arguments:
        colours: (N or C, 3) of its points or cells; None: all grey.
        location: "point" or "cell".
        legend: (colour, text) pairs.
    """

    colours: Array | None = None
    location: str = "cell"
    legend: Sequence[tuple[Any, str]] = ()

    @classmethod
    def of(cls, body: Mesh | None, name: str | None, unit: str) -> _Paint:
        if name is None:
            return cls()
        if body is None:
            raise InputError("`on_body`: expected a body too")
        shown = quantity(body, name)
        values = shown.values(body)
        reach = colour.span([values])
        if reach.low < 0 < reach.high:
            scale = colour.error_scale(reach, signed=True)
        else:
            scale = colour.scale(reach, cmap="cividis")  # another map than the lines'
        # few enough colours that a legend can name them
        ticks = colour.nice_ticks(scale.low, scale.high, 7)
        texts, power = colour.tick_texts(ticks)
        last = " ".join(part for part in (power, unit) if part)
        told = [f"{shown.label} {texts[0]}", *texts[1:]]
        told[-1] = f"{told[-1]} {last}".rstrip()
        swatches = [tuple(int(v) for v in scale.colour(np.array([t]))[0]) for t in ticks]
        return cls(scale.colour(values), shown.location, list(zip(swatches, told, strict=True)))

    def of_triangles(self, seen: Surface) -> Array:
        """(M, 3) one colour each."""
        if self.colours is None:
            return np.tile(np.array(BODY, float), (len(seen.corners), 1))
        if self.location == "cell":
            return self.colours[seen.cells].astype(float)
        return self.colours[seen.corners].astype(float).mean(1)


def _drawn(
    mesh: Mesh,
    body: Mesh | None,
    paint: _Paint,
    ends: Array,
    tints: Array,
    view: View,
    width: int,
    height: int,
) -> Array:
    """The panel's pixels: (height, width, 3) uint8.

    Everything becomes triangles of one mesh, so that the nearer hides the farther; in the plane
    what comes later is on top.
    """
    thick = WIDTH * max(1.0, width / 1100) / min((width, height) / (view.high - view.low))
    parts: list[tuple[Array, Array, Array, Array]] = []  # corners, colours, outline, normals

    def add(seen: Surface, points: Array, colours: Array) -> None:
        corners = points[seen.corners]
        normals = np.zeros((len(corners), 3, 3)) if seen.normals is None else seen.normals
        parts.append((corners, colours, seen.outline, normals))

    def ribbons(ends: Array, colours: Array, wide: float, back: float) -> None:
        seen = ends @ view.axes.T  # (S, 2, D)
        flat = np.zeros((*seen.shape[:2], 3))
        flat[..., : seen.shape[2]] = seen
        flat[..., 2] -= back
        corners = thicken(flat, wide / 2)[0]
        corners = corners[..., : mesh.dim] @ view.axes
        facing = np.broadcast_to(view.axes[-1], (len(corners), 3, len(view.axes)))
        normals = facing if mesh.dim == 3 else np.zeros((len(corners), 3, 3))
        rows = np.tile(np.arange(len(ends)), 2)
        parts.append((corners, colours[rows], np.zeros((len(corners), 3), bool), normals))

    if mesh.dim == 2:
        ground = surface(mesh)
        fluid = np.tile(np.array(FLUID, float), (len(ground.corners), 1))
        add(ground, _points(mesh), fluid)
    if body is not None:
        seen = surface(body)
        if seen.corners.shape[1] == 3:
            add(seen, _points(body), paint.of_triangles(seen))
    white = np.full((len(ends), 3), 255.0 if mesh.dim == 3 else FLUID[0])
    # far enough behind not to hide the next piece of a line that goes away from the eye
    ribbons(ends, white, HALO * thick, 8 * thick)
    ribbons(ends, tints.astype(float), thick, 0.0)
    if body is not None and seen.corners.shape[1] == 2:  # a contour: a rim, on ink to be seen
        ink = np.tile(np.array(INK, float), (len(seen.corners), 1))
        rim = _points(body)[seen.corners]
        ribbons(rim, ink, 3.5 * thick, 0.0)
        if paint.colours is not None:
            ribbons(rim, paint.of_triangles(seen), 2.5 * thick, 0.0)
    corners, colours, outline, normals = (
        np.concatenate([part[k] for part in parts]) for k in range(4)
    )
    numbers = np.arange(3 * len(corners)).reshape(-1, 3)
    whole = Mesh(corners.reshape(-1, mesh.dim), {"triangle": numbers})
    none = np.zeros((len(corners), 3), bool)
    shown = Surface(
        numbers, np.arange(len(corners)), none, outline, normals if mesh.dim == 3 else None
    )
    panel = Panel(whole, view, width, height, shown=shown)
    return panel.paint(panel.cell_colours(colours))


def _points(mesh: Mesh) -> Array:
    """(N, D) float64, all points."""
    return np.asarray(mesh.points.detach().cpu().double().numpy())
