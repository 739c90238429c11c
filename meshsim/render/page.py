"""A page with the mesh turning in 3-D: one file that needs no network and no server."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshsim.mesh import Mesh
from meshsim.render import colour
from meshsim.render.colour import Number
from meshsim.render.layout import caption
from meshsim.render.output import save_text, target
from meshsim.render.scene import pair_keys, surface
from meshsim.render.values import Quantity, branch, frame, quantity, with_unit
from meshsim.render.view import View, look, used_points
from meshsim.sample import Sample
from meshsim.series import Series

Array = NDArray[Any]

MISSING_VALUE = 1e20  # GPUs do not agree on what NaN does
MOST = 12  # fields in one page
ROOM = 24_000_000  # numbers in one page, over all its fields and times


def page(
    obj: Mesh | Series | Sample,
    out: str | Path = "page.html",
    *,
    name: str | None = None,
    component: int | str | None = None,
    cmap: str | None = None,
    clim: tuple[Number, Number] | None = None,
    title: str | None = None,
    unit: str = "",
    time: Number | None = None,
    cut: str | None = None,
    view: str = "auto",
    up: str | None = None,
) -> Path:
    """Write a page that shows the mesh with its fields and lets it be turned.

    A series on a mesh that rests comes with a slider of its times; where they are more than fit
    (24 million numbers in a page), evenly chosen ones and the last.

    Arguments:
        obj: a mesh, a series or a sample of one branch.
        out: a .html; it holds everything and loads nothing.
        name: of the one field to show; None: all of them, to choose from.
        time: the only one to show; None: all of a series, where its mesh rests, else the last.
        component: see `field`, like every other argument that is not named here.

    Returns:
        `out`.

    Raises:
        InputError: an unknown field, component, colour map, axis or suffix.
        WorkError: `out` cannot be written.
    """
    path = target(out, (".html", ".htm"))
    text = written(
        obj,
        name=name,
        component=component,
        cmap=cmap,
        clim=clim,
        title=title,
        unit=unit,
        time=time,
        cut=cut,
        view=view,
        up=up,
    )
    return save_text(text, path)


def written(
    obj: Mesh | Series | Sample,
    *,
    name: str | None = None,
    component: int | str | None = None,
    cmap: str | None = None,
    clim: tuple[Number, Number] | None = None,
    title: str | None = None,
    unit: str = "",
    time: Number | None = None,
    cut: str | None = None,
    view: str = "auto",
    up: str | None = None,
    spans: Mapping[str, colour.Span] | None = None,
    room: int | None = None,
) -> str:
    """The text of what `page` writes.

    Arguments:
        spans: {label of a field: how far its scale reaches}; of others what they reach here.
        room: numbers in the page, over all its fields and times; None: as many as `page` takes.
    """
    mesh, at = frame(obj, time)
    shown = _shown(mesh, name, component)
    eye = look(used_points(mesh), view, up)
    scene, nodes, cells = _scene(mesh, eye, cut)
    frames, times = _frames(obj, mesh, at, time, len(nodes) * max(len(shown), 1), room or ROOM)
    scene["times"] = [f"{t:.6g}" for t in times]
    stamp = f", t = {times[-1]:.4g}" if times else ""
    fields = []
    for what in shown:
        scale = colour.scale(
            (spans or {}).get(what.label) or colour.span(what.values(m) for m in frames),
            cmap=cmap,
            clim=clim,
            unit=unit if name is not None else "",
        )
        heading = with_unit(what.label, scale.unit) if title is None else title
        fields.append(_field(frames, what, scale, nodes, cells) | {"title": heading})
    scene["fields"] = fields or [_plain(title or "mesh", len(nodes), max(len(times), 1))]
    text = Path(__file__).with_name("viewer.html").read_text(encoding="utf-8")
    text = text.replace("%TITLE%", escape(scene["fields"][0]["title"] + stamp))
    text = text.replace("%MISSING%", ", ".join(f"{c}.0" for c in colour.MISSING))
    # a field's name must not be able to end the script element
    text = text.replace("%SCENE%", json.dumps(scene).replace("<", "\\u003c"))
    return text


def reach(
    obj: Mesh | Series | Sample, name: str | None, component: int | str | None, room: int
) -> dict[str, colour.Span]:
    """How far the fields of a page reach: {label: span}."""
    mesh, at = frame(obj)
    shown = _shown(mesh, name, component)
    size = used_points(mesh).shape[0] * max(len(shown), 1)
    frames, _ = _frames(obj, mesh, at, None, size, room)
    return {what.label: colour.span(what.values(m) for m in frames) for what in shown}


def _shown(mesh: Mesh, name: str | None, component: int | str | None) -> list[Quantity]:
    names = [*mesh.point_fields, *mesh.cell_fields] if name is None else [name]
    return [quantity(mesh, n, component if name is not None else None) for n in names[:MOST]]


def _code(values: Array, dtype: Any) -> str:
    return b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode("ascii")


def _scene(mesh: Mesh, eye: View, cut: str | None) -> tuple[dict[str, Any], Array, Array]:
    """Geometry for the page, and the point and the cell that each of its vertices stands for."""
    skin = surface(mesh, cut=cut)
    corners = skin.corners  # (M, k)
    k = corners.shape[1]
    normals = np.zeros((*corners.shape, 4), np.int8)
    if skin.normals is not None:
        normals[..., :3] = np.rint(skin.normals * 127)
    else:
        normals[..., 2] = 127
    keys = [corners.reshape(-1, 1), normals.reshape(-1, 4)]
    cell = np.repeat(skin.cells, k)
    if mesh.cell_fields:
        keys.append(cell[:, None])
    _, first, place = np.unique(
        np.concatenate(keys, 1), axis=0, return_index=True, return_inverse=True
    )
    nodes, place = corners.reshape(-1)[first], place.reshape(corners.shape)
    points = mesh.points.detach().cpu().double().numpy()
    points = np.pad(points, [(0, 0), (0, 3 - points.shape[1])])
    middle = (points[nodes].min(0) + points[nodes].max(0)) / 2
    axes = np.eye(3) if eye.flat else eye.axes
    # the page turns about the axis that stands most upright in the picture
    upright = np.eye(3)[np.abs(axes[1]).argmax()] * np.sign(axes[1][np.abs(axes[1]).argmax()])
    lines = np.zeros((0, 2), np.int64)
    if k == 3:
        ends = np.stack([place, np.roll(place, -1, 1)], -1)[skin.edges]
        pairs = pair_keys(nodes[ends[:, 0]], nodes[ends[:, 1]], mesh.n_points)
        lines = ends[np.unique(pairs, return_index=True)[1]]
    radius = max(float(np.linalg.norm(points[nodes] - middle, axis=1).max()), 1e-30)
    # floats of single precision hold what is left after the middle is taken away
    scene = {
        "points": _code(points[nodes] - middle, np.float32),
        "centre": [0.0, 0.0, 0.0],
        "normals": _code(normals.reshape(-1, 4)[first], np.int8),
        "faces": _code(place, np.uint32),
        "edges": _code(lines, np.uint32),
        "corners": k,
        "axes": axes.tolist(),
        "up": upright.tolist(),
        "size": (eye.high - eye.low).tolist(),
        "radius": radius,
        "flat": eye.flat,
    }
    return scene, nodes, cell[first]


def _frames(
    obj: Mesh | Series | Sample,
    mesh: Mesh,
    at: float | None,
    time: Number | None,
    numbers: int,
    room: int,
) -> tuple[Sequence[Mesh], list[float]]:
    """The meshes whose fields the page holds, the last one shown first, and their times."""
    data = branch(obj)
    if at is None:
        return [mesh], []
    still = isinstance(data, Series) and data.points is None and len(data.segments) == 1
    if time is not None or not still:
        return [mesh], [at]
    assert isinstance(data, Series)
    count = max(1, min(len(data), room // numbers))
    chosen = sorted({len(data) - 1 - round(i * len(data) / count) for i in range(count)})
    return _Chosen(data, chosen), [float(data.times[t]) for t in chosen]


class _Chosen(Sequence[Mesh]):
    """Some frames of a series, read when they are looked at."""

    def __init__(self, series: Series, chosen: list[int]):
        self.series, self.chosen = series, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: Any) -> Any:
        return self.series.frame(self.chosen[i])


def _field(
    frames: Sequence[Mesh], what: Quantity, scale: colour.Scale, nodes: Array, cells: Array
) -> dict[str, Any]:
    coded = []
    for mesh in frames:
        values = what.values(mesh)[nodes if what.location == "point" else cells]
        share = np.clip((values - scale.low) / (scale.high - scale.low), -1e6, 1e6)
        coded.append(_code(np.where(np.isfinite(values), share, MISSING_VALUE), np.float32))
    return {
        "name": what.label,
        "values": coded,
        "colours": _code(scale.colours, np.uint8),
        "ticks": scale.ticks(9)[0],
        "caption": caption(scale),
    }


def _plain(title: str, n: int, times: int) -> dict[str, Any]:
    """What stands for a field on a mesh that has none."""
    return {
        "name": title,
        "title": title,
        "values": [_code(np.zeros(n), np.float32)] * times,
        "colours": _code(np.full((256, 3), (206, 212, 222)), np.uint8),
        "ticks": [],
        "caption": "",
    }
