"""How good the cells of a mesh are: histograms, and the mesh coloured by one of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from meshsim.check import InputError, check_known
from meshsim.defects import directions
from meshsim.geometry import figures as merit
from meshsim.mesh import Mesh
from meshsim.render.colour import Number
from meshsim.render.field import drawn as draw_field
from meshsim.render.output import figure_pixels, save_png, target
from meshsim.render.section import clip, plane
from meshsim.render.values import frame
from meshsim.render.view import upright, used_points
from meshsim.sample import Sample
from meshsim.series import Series

Array = NDArray[Any]

BINS = 40
WIDE = 100.0  # times the least: beyond that an axis of a histogram is logarithmic
LIMITS = {
    "aspect ratio": merit.ASPECT,
    "skewness": merit.SKEW,
    "non-orthogonality": merit.ANGLE,
}


def qualities(mesh: Mesh) -> dict[str, Tensor]:
    """Figures of merit of each cell, as `meshsim check` has them (see `geometry.figures`).

    Of figures of faces a cell has the worst of its own: skewness of all faces, non-orthogonality
    (degrees) of those inside.

    Arguments:
        mesh: of cells in two or three dimensions; on surfaces in space the aspect ratio is that of
            the longest to the shortest edge, and there is nothing else but the area.

    Returns:
        {"aspect ratio", "skewness", "non-orthogonality", and "area" or "volume": (C,) float64}.

    Raises:
        InputError: lines and points.

    >>> mesh = Mesh([[0., 0.], [2., 0.], [2., 1.], [0., 1.]], {"quad": [[0, 1, 2, 3]]})
    >>> {name: round(float(values[0]), 6) for name, values in qualities(mesh).items()}
    {'aspect ratio': 2.0, 'skewness': 0.0, 'non-orthogonality': 0.0, 'area': 2.0}
    """
    if mesh.cell_dim < 2:
        raise InputError("lines and points have no quality")
    size = {"area" if mesh.cell_dim == 2 else "volume": mesh.cell_measures.double()}
    faces = mesh.faces
    if mesh.cell_dim < mesh.dim:
        return {"aspect ratio": _edge_ratio(mesh), **size}
    found = merit.figures(mesh.points, mesh.cells, faces, directions(mesh))
    inside = (faces.neighbour >= 0).nonzero().squeeze(1)
    worst = torch.zeros(2, mesh.n_cells, dtype=torch.float64)
    angle = torch.zeros(len(faces), dtype=torch.float64)
    angle[inside] = found.angle
    for row, values in zip(worst, (found.skewness, angle), strict=True):
        row.scatter_reduce_(0, faces.owner, values, "amax")
        row.scatter_reduce_(0, faces.neighbour[inside], values[inside], "amax")
    return {
        "aspect ratio": found.aspect,
        "skewness": worst[0],
        "non-orthogonality": worst[1],
        **size,
    }


def _edge_ratio(mesh: Mesh) -> Tensor:
    """(C,) longest over shortest edge of the cells of a surface."""
    faces = mesh.faces
    length = faces.area.double().norm(dim=1)
    out = torch.full((2, mesh.n_cells), torch.nan, dtype=torch.float64)
    both = faces.neighbour >= 0
    for row, kind in zip(out, ("amax", "amin"), strict=True):
        row.scatter_reduce_(0, faces.owner, length, kind, include_self=False)
        row.scatter_reduce_(0, faces.neighbour[both], length[both], kind, include_self=True)
    return out[0] / out[1].clamp(min=merit.TINY)


def counts(values: Array, growing: bool = False) -> tuple[Array, Array]:
    """A histogram: how many values lie in each bin, and the bins' edges; all values are in it.

    Arguments:
        values: (n,) float; those that are not finite are left out.
        growing: values over two powers of ten get bins that grow by a factor.

    Returns:
        (b,) int64 and (b + 1,) float64.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return np.zeros(1, np.int64), np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = 0.05 * abs(low) or 0.5
        edges = np.array([low - half, high + half])
    elif growing and low > 0 and high > WIDE * low:
        edges = np.geomspace(low, high, BINS + 1)
    else:
        edges = np.linspace(low, high, BINS + 1)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    found, edges = np.histogram(values, edges)
    return found, edges


def quality(
    obj: Mesh | Series | Sample,
    out: str | Path = "quality.png",
    *,
    name: str | None = None,
    clipped: str | None = None,
    time: Number | None = None,
    edges: bool = True,
    up: str | None = None,
    width: int = 1400,
) -> Path:
    """Draw the mesh coloured by a figure of merit of its cells beside the histograms of all.

    Arguments:
        obj: a mesh, a series (its last time) or a sample of one branch.
        out: a .png.
        name: what the mesh is coloured by, see `qualities`; None: skewness, or the aspect ratio
            of a surface.
        clipped: "x=0.1" or "x": half of a volume is cut away there.
        time: of a series.
        edges: draw the edges of the cells.
        up: see `field`.
        width: in pixels.

    Returns:
        `out`.

    Raises:
        InputError: an unknown name, lines and points.
        WorkError: `out` cannot be written.
    """
    path = target(out, (".png",))
    return save_png(drawn(obj, name=name, clipped=clipped, time=time, edges=edges, up=up,
                          width=width), path)  # fmt: skip


def drawn(
    obj: Mesh | Series | Sample,
    *,
    name: str | None = None,
    clipped: str | None = None,
    time: Number | None = None,
    edges: bool = True,
    up: str | None = None,
    width: int = 1400,
) -> Array:
    """The pixels of what `quality` writes, (height, width, 3) uint8."""
    mesh, _ = frame(obj, time)
    found = qualities(mesh)
    name = name or ("skewness" if "skewness" in found else "aspect ratio")
    check_known(name, found, "quality")
    shown: Any = mesh.replace(point_fields={}, cell_fields={name: found[name]})
    if clipped is not None:
        if mesh.cell_dim < 3:
            raise InputError("only volumes can be clipped: this mesh has no inside")
        up = up or upright(used_points(mesh))
        shown = clip(shown, *plane(shown, clipped), up=up)
    side = max(round(0.3 * width), 340)  # so that the titles fit
    left = draw_field(shown, name, edges=edges, up=up, width=width - side)
    right = histograms({k: v.numpy() for k, v in found.items()}, side, max(len(left), side))
    return beside(left, right)


def beside(*images: Array) -> Array:
    """Pictures side by side, white where one is lower than the others."""
    high = max(len(image) for image in images)
    gaps = [high - len(image) for image in images]
    padded = [
        np.pad(image, [(gap // 2, gap - gap // 2), (0, 0), (0, 0)], constant_values=255)
        for image, gap in zip(images, gaps, strict=True)
    ]
    return np.concatenate(padded, 1)


def histograms(found: Mapping[str, Array], width: int, height: int) -> Array:
    """One histogram below the other: (height, width, 3) uint8.

    Arguments:
        found: {name: (C,) float}.
        width: in pixels.
        height: in pixels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullFormatter

    figure = Figure((width / 100, height / 100), dpi=100)
    figure.subplots_adjust(
        left=62 / width, right=1 - 14 / width, top=1 - 26 / height, bottom=28 / height, hspace=0.62
    )
    for axis, (name, values) in zip(
        figure.subplots(len(found), 1, squeeze=False)[:, 0], found.items(), strict=True
    ):
        growing = name not in ("skewness", "non-orthogonality")  # which may be nearly zero
        number, edges = counts(values, growing)
        axis.stairs(number, edges, fill=True, color="#2f57b3")
        if growing and edges[0] > 0 and edges[-1] > WIDE * edges[0]:
            axis.set_xscale("log")
        if number.max() > WIDE:
            axis.set_yscale("log", nonpositive="clip")
            axis.set_ylim(bottom=0.5)
            axis.yaxis.set_minor_formatter(NullFormatter())
        else:
            axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        unit = "°" if name == "non-orthogonality" else ""
        best, worst = np.nanmin(values), np.nanmax(values)
        best = 0.0 if 0 < best < 1e-5 * worst and not growing else best  # rounding errors
        over = int((values > LIMITS[name]).sum()) if name in LIMITS else 0
        text = f"{name}: {best:.3g} to {worst:.3g}{unit}"
        text += f", {over} over {LIMITS[name]:g}{unit}" if over else ""
        axis.set_title(text, loc="left", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set_ylabel("cells", fontsize=8)
    return figure_pixels(figure)
