"""One sheet about one file: what is in it, a field, the boundaries, a section, the quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshsim.inspect import describe
from meshsim.mesh import Mesh
from meshsim.render.cells import drawn as draw_cells
from meshsim.render.colour import Number
from meshsim.render.field import drawn as draw_field
from meshsim.render.layout import shorten
from meshsim.render.output import figure_pixels, save_png, target
from meshsim.render.quality import drawn as draw_quality
from meshsim.render.section import clip, plane, section
from meshsim.render.values import branch, frame
from meshsim.render.view import upright, used_points
from meshsim.sample import Sample
from meshsim.series import Series

Array = NDArray[Any]

LINES = 14  # of the text


def overview(
    obj: Mesh | Series | Sample,
    out: str | Path = "overview.png",
    *,
    name: str | None = None,
    title: str | None = None,
    time: Number | None = None,
    up: str | None = None,
    width: int = 1600,
) -> Path:
    """Draw one sheet: what is in a mesh in words, a field, boundaries, a section, the quality.

    Arguments:
        obj: a mesh, a series (its last time) or a sample of one branch.
        out: a .png.
        name: the field; None: the first.
        title: None: the file that it was read from.
        time: of a series.
        up: see `field`.
        width: in pixels.

    Returns:
        `out`.

    Raises:
        InputError: an unknown field, axis or suffix.
        WorkError: `out` cannot be written.
    """
    path = target(out, (".png",))
    mesh, _ = frame(obj, time)
    if up is None and mesh.dim == 3:
        up = upright(used_points(mesh))
    half = width // 2
    plain = not (mesh.point_fields or mesh.cell_fields)
    rows = []
    first = [] if plain else [draw_field(obj, name, time=time, up=up, width=half)]
    rows.append([*first, draw_cells(mesh, up=up, width=half if first else width)])
    if mesh.cell_dim == 3:
        axis = _across(mesh, up or "z")
        if plain:
            left = draw_cells(
                clip(mesh, *plane(mesh, axis), up=up), title="inside", up=up, width=half
            )
        else:
            flat = section(mesh, [plane(mesh, axis)])
            left = draw_field(
                flat, name, title=f"section {axis} = {plane(mesh, axis)[1]:.4g}",
                view=axis, up=up, edges=True, width=half,
            )  # fmt: skip
        rows.append([left, draw_quality(mesh, clipped=axis, up=up, width=half)])
    elif mesh.cell_dim == 2:
        rows.append([draw_quality(mesh, up=up, width=width)])
    words = _words(describe(branch(obj)), width, title)
    return save_png(_stack([words, *(_row(row, width) for row in rows)]), path)


def _across(mesh: Mesh, up: str) -> str:
    """The axis along which a body is thinnest, of those that lie."""
    size = np.ptp(used_points(mesh), axis=0)
    return min((a for a in "xyz" if a != up), key=lambda a: size["xyz".index(a)])


def _row(images: list[Array], width: int) -> Array:
    """Pictures side by side over the whole width, each in the middle of its place."""
    place = width // len(images)
    out = np.full((max(len(i) for i in images), width, 3), 255, np.uint8)
    for k, image in enumerate(images):
        high, wide = image.shape[0], min(image.shape[1], place)
        left, upper = k * place + (place - wide) // 2, (len(out) - high) // 2
        out[upper : upper + high, left : left + wide] = image[:, :wide]
    return out


def _stack(images: list[Array]) -> Array:
    gap = np.full((10, images[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for image in images for part in (image, gap)])


def _words(known: dict[str, Any], width: int, title: str | None) -> Array:
    """What is in a mesh as pixels: (height, width, 3) uint8."""
    from matplotlib.figure import Figure

    source = Path(known.get("file") or "").name
    lines = list(_sentences(known))[:LINES]
    height = 2 * ((56 + 22 * len(lines)) // 2)
    figure = Figure((width / 72, height / 72), dpi=72, facecolor="white")

    def text(y: Number, words: str, size: Number, bold: bool = False) -> None:
        figure.text(
            16 / width, 1 - y / height, shorten(words, width - 32, size, bold), size=size,
            weight="bold" if bold else "normal", color="#1a1c22", parse_math=False,
        )  # fmt: skip

    text(32, title or source or "mesh", 20, bold=True)
    for i, line in enumerate(lines):
        text(58 + 22 * i, line, 15)
    return figure_pixels(figure)[:height, :width]


def _sentences(known: dict[str, Any]) -> list[str]:
    """Lines of the text."""
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in known["cells"].items())
    low, high = ([f"{v:.4g}" for v in corner] for corner in known["bounds"])
    out = [
        f"{known['points']:,} points in {known['dim']}-D; {kinds}",
        "bounds " + " × ".join(f"{a} … {b}" for a, b in zip(low, high, strict=True)),
    ]
    times = known["times"]
    if times:
        out.append(f"{len(times)} times, {times[0]:.4g} … {times[-1]:.4g}")
    for place in ("point", "cell"):
        fields = [f"{name} {_range(field)}" for name, field in known[f"{place}_fields"].items()]
        if fields:
            out.append(f"{place} fields: " + ", ".join(fields))
    for kind in ("boundaries", "regions"):
        if known[kind]:
            names = ", ".join(f"{name} ({n:,})" for name, n in known[kind].items())
            of = kind if len(known[kind]) != 1 else {"boundaries": "boundary"}.get(kind, "region")
            out.append(f"{len(known[kind])} {of}: {names}")
    return out + [f"note: {note}" for note in known["notes"]]


def _range(field: dict[str, Any]) -> str:
    low, high = field.get("min"), field.get("max")
    if isinstance(low, int | float) and isinstance(high, int | float):
        return f"{low:.3g}…{high:.3g}"
    return f"({field['shape'][-1]} components)" if field["shape"] else ""
