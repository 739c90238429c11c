"""The samples of a store, to choose from: a sheet of small pictures, and one page of pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.render import colour
from meshsim.render.colour import Number
from meshsim.render.layout import caption, shorten
from meshsim.render.output import figure_pixels, save_png, save_text, target
from meshsim.render.page import ROOM, reach, written
from meshsim.render.panel import Panel
from meshsim.render.values import frame, quantity
from meshsim.render.view import look, used_points
from meshsim.sample import Sample
from meshsim.series import Series

Array = NDArray[Any]
Load = Callable[[str], Mesh | Series | Sample]

TILES = 24  # samples on a sheet
PAGES = 32  # samples in a page
LETTERS = 96_000_000  # in a page, which a browser holds in memory


@dataclass(frozen=True)
class Made:
    """What was written, and what is in it.

    Arguments:
        path: the file.
        shown: names of the samples in it.
        left_out: names of those that are not.
    """

    path: Path
    shown: Sequence[str]
    left_out: Sequence[str]


def sheet(
    names: Sequence[str],
    load: Load,
    out: str | Path = "samples.png",
    *,
    field: str | None = None,
    component: int | str | None = None,
    up: str | None = None,
    width: int = 1400,
) -> Made:
    """Draw a field of many samples, at their last times, on one colour scale.

    Arguments:
        names: of the samples; the first 24 are drawn.
        load: gives a mesh, a series or a sample of one branch for a name; called twice for each.
        out: a .png.
        field: see `field`, like the arguments that are not named here; None: the first of the
            first sample, or the plain meshes.
        width: in pixels.

    Returns:
        The file and the names of the samples in it and of those left out.

    Raises:
        InputError: no samples; one without the field.
        WorkError: `out` cannot be written.
    """
    path = target(out, (".png",))
    if not names:
        raise InputError("there are no samples to draw")
    shown = list(names[:TILES])
    first, _ = frame(load(shown[0]))
    if field is None:
        field = next(iter([*first.point_fields, *first.cell_fields]), None)
    spans, label = [], ""
    for name in shown if field is not None else []:
        mesh, _ = frame(load(name))
        what = quantity(mesh, field, component)
        spans.append(colour.span([what.values(mesh)]))
        label = what.label
    scale = colour.scale(colour.together(spans)) if spans else None
    columns = min(len(shown), max(1, round((1.5 * len(shown)) ** 0.5)))
    rows = -(-len(shown) // columns)
    bar = 110 if scale is not None else 0
    wide = (width - bar - 16) // columns - 12
    eyes_aspect = look(used_points(first), up=up).aspect
    high = round(wide / min(max(eyes_aspect, 0.7), 4.0))
    tiles = [_tile(load(name), field, component, scale, up, wide, high) for name in shown]
    image = _compose(shown, tiles, columns, rows, (width, wide, high, bar), scale, label)
    return Made(save_png(image, path), shown, list(names[TILES:]))


def _tile(
    obj: Mesh | Series | Sample,
    field: str | None,
    component: int | str | None,
    scale: colour.Scale | None,
    up: str | None,
    wide: int,
    high: int,
) -> Array:
    mesh, _ = frame(obj)
    panel = Panel(mesh, look(used_points(mesh), up=up), wide, high, edges=scale is None)
    if scale is None or field is None:
        return panel.paint(panel.cell_colours(np.full((mesh.n_cells, 3), 225.0)))
    what = quantity(mesh, field, component)
    return panel.image(what.values(mesh), what.location, scale)


def _compose(
    names: Sequence[str],
    tiles: Sequence[Array],
    columns: int,
    rows: int,
    sizes: tuple[int, int, int, int],
    scale: colour.Scale | None,
    label: str,
) -> Array:
    from matplotlib.figure import Figure

    width, wide, high, bar = sizes
    top, line = 44, 22
    height = 2 * ((top + rows * (high + line + 8) + 13) // 2)
    figure = Figure((width / 72, height / 72), dpi=72, facecolor="white")

    def text(x: Number, y: Number, words: str, size: Number, bold: bool = False) -> None:
        figure.text(
            x / width, 1 - y / height, words, size=size, parse_math=False,
            color="#1a1c22", weight="bold" if bold else "normal",
        )  # fmt: skip

    title = f"{label or 'meshes'}, {len(names)} sample{'s' * (len(names) != 1)}"
    text(16, 30, shorten(title, width - 32, 17, True), 17, bold=True)
    corners = []
    for i, name in enumerate(names):
        left, upper = 16 + i % columns * (wide + 12), top + i // columns * (high + line + 8)
        corners.append((left, upper + line))
        text(left, upper + 15, shorten(name, wide, 13), 13)
    at, tall = width - bar + 20, max(min(rows * (high + line), 480) - line, 60)
    if scale is not None:
        if caption(scale):
            text(at, top + line - 7, caption(scale), 13)
        for share, words in scale.ticks(max(2, min(9, tall // 36)))[0]:
            text(at + 24, top + line + (1 - share) * tall + 5, words, 13)
    image = figure_pixels(figure)[:height, :width].copy()
    for (left, upper), tile in zip(corners, tiles, strict=True):
        image[upper : upper + high, left : left + wide] = tile
    if scale is not None:
        steps = ((1 - (np.arange(tall) + 0.5) / tall) * 256).astype(int)
        image[top + line : top + line + tall, at : at + 16] = scale.colours[steps][:, None]
    return image


def browse(
    names: Sequence[str],
    load: Load,
    out: str | Path = "samples.html",
    *,
    title: str = "samples",
    field: str | None = None,
    component: int | str | None = None,
    up: str | None = None,
) -> Made:
    """Write one page in which samples are chosen from a list and turned; it loads nothing.

    All samples have one colour scale a field. Of series there are as many times as fit.

    Arguments:
        names: of the samples; the first 32 are taken, fewer where they are large (96 MB of text).
        load: gives a mesh, a series or a sample of one branch for a name; called twice for each.
        out: a .html.
        title: of the page.
        field: the one to show; None: all of them, to choose from.
        component: see `field`.
        up: see `field`.

    Returns:
        The file and the names of the samples in it and of those left out.

    Raises:
        InputError: no samples; one without the field.
        WorkError: `out` cannot be written.
    """
    path = target(out, (".html", ".htm"))
    if not names:
        raise InputError("there are no samples to show")
    some = list(names[:PAGES])
    room = ROOM // len(some)
    spans: dict[str, list[colour.Span]] = {}
    for name in some:
        for label, span in reach(load(name), field, component, room).items():
            spans.setdefault(label, []).append(span)
    scales = {label: colour.together(found) for label, found in spans.items()}
    pages: list[str] = []
    for name in some:
        page = written(load(name), name=field, component=component, up=up, spans=scales, room=room)
        if pages and sum(map(len, pages)) + len(page) > LETTERS:
            break
        pages.append(page)
    shown = some[: len(pages)]
    left = list(names[len(pages) :])
    return Made(save_text(_index(title, shown, pages, len(left)), path), shown, left)


def _index(title: str, names: Sequence[str], pages: Sequence[str], left: int) -> str:
    data: Mapping[str, Any] = {"names": list(names), "pages": list(pages)}
    note = f"{left} more in the store are not in this page" if left else ""
    text = Path(__file__).with_name("samples.html").read_text(encoding="utf-8")
    text = text.replace("%TITLE%", escape(title)).replace("%NOTE%", escape(note))
    # no name and no page must be able to end the script element
    return text.replace("%DATA%", json.dumps(data).replace("<", "\\u003c"))
