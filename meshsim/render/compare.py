"""Truth, prediction and error side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.render import colour
from meshsim.render.board import Board
from meshsim.render.colour import Number
from meshsim.render.field import missing
from meshsim.render.layout import Frame
from meshsim.render.output import save_png, target
from meshsim.render.panel import Panel
from meshsim.render.values import Quantity, branch, frame, quantity, with_unit
from meshsim.render.view import look, used_points
from meshsim.sample import Sample
from meshsim.series import Series

Array = NDArray[Any]


def check_same(truth: Mesh, prediction: Mesh, shown: Quantity) -> None:
    """Raise `InputError` unless both carry the field on the same points and cells."""
    ours = (prediction.n_points, prediction.n_cells)
    theirs = (truth.n_points, truth.n_cells)
    if ours != theirs or truth.dim != prediction.dim:
        raise InputError(
            "truth and prediction lie on different meshes: "
            f"{theirs[0]} points and {theirs[1]} cells, {ours[0]} points and {ours[1]} cells"
        )
    columns = [shown.vector(mesh).shape[1] for mesh in (truth, prediction)]
    if columns[0] != columns[1]:
        raise InputError(
            f"field {shown.name!r}: the truth has {columns[0]} components,"
            f" the prediction {columns[1]}"
        )


def error(truth: Mesh, prediction: Mesh, shown: Quantity) -> tuple[Array, str]:
    """The error of each point or cell, and figures for its title.

    Returns:
        (n,) prediction − truth of a scalar or component, the magnitude of the difference of a
        vector; and a text with the relative L2 norm and the largest error.
    """
    a, b = shown.vector(truth), shown.vector(prediction)
    apart = b - a
    each = apart[:, 0] if apart.shape[1] == 1 else np.linalg.norm(apart, axis=1)
    known = np.isfinite(apart).all(1) & np.isfinite(a).all(1)
    if not known.any():
        return each, ""
    norm = float(np.linalg.norm(a[known]))
    size = float(np.linalg.norm(apart[known]))
    figure = f"relative L2 {size / norm:.2g}" if norm > 0 else f"L2 {size:.2g}"
    return each, f"{figure}, largest {np.abs(each[known]).max():.2g}"


def error_title(columns: int) -> str:
    """What the error's panel shows."""
    return "prediction − truth" if columns == 1 else "|prediction − truth|"


def shared_scale(
    truth: colour.Span,
    prediction: colour.Span,
    cmap: str | None,
    clim: tuple[Number, Number] | None,
    unit: str,
) -> colour.Scale:
    """One scale for both: the truth's, so that a prediction gone wild does not hide it."""
    flat = truth.high - truth.low <= 1e-6 * max(abs(truth.low), abs(truth.high))
    reach = colour.Span(
        min(truth.least, prediction.least),
        max(truth.most, prediction.most),
        min(truth.low, prediction.low) if flat else truth.low,
        max(truth.high, prediction.high) if flat else truth.high,
    )
    return colour.scale(reach, cmap=cmap, clim=clim, unit=unit)


def compare(
    truth: Mesh | Series | Sample,
    prediction: Mesh | Series | Sample,
    name: str | None = None,
    out: str | Path = "compare.png",
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
    width: int = 1400,
) -> Path:
    """Draw truth and prediction on one scale, and the error on its own.

    The error of a scalar or a component is signed; that of a vector is the magnitude of the
    difference, which sees wrong directions too.

    Arguments:
        truth: a mesh, a series or a sample of one branch.
        prediction: the same, on the same mesh.
        name: a field of both; None: the prediction's first.
        out: a .png.
        component: see `field`, like every other argument that is not named here.
        clim: of truth and prediction.
        time: of a series; None: the prediction's last.

    Returns:
        `out`.

    Raises:
        InputError: different meshes, and what `field` raises.
        WorkError: `out` cannot be written.
    """
    path = target(out, (".png",))
    guess, at = frame(prediction, time)
    known, _ = frame(truth, at if isinstance(branch(truth), Series) else None)
    shown = quantity(guess, name, component)
    check_same(known, guess, shown)
    a, b = shown.values(known), shown.values(guess)
    apart, note = error(known, guess, shown)
    signed = shown.vector(guess).shape[1] == 1
    scale = shared_scale(colour.span([a]), colour.span([b]), cmap, clim, unit)
    wrong = colour.error_scale(colour.span([apart]), signed=signed, unit=unit)
    eye = look(used_points(guess), view, up)
    stamp = "" if at is None else f"t = {at:.4g}"
    board = Board(
        [
            Frame(scale, "truth"),
            Frame(scale, "prediction"),
            Frame(wrong, error_title(1 if signed else 2), note),
        ],
        eye,
        title=with_unit(shown.label, unit) if title is None else title,
        width=width,
        stamp=stamp,
        legend=missing(apart, shown.location),
    )
    panel = Panel(guess, eye, *board.boxes[0][2:], edges=edges, cut=cut)
    images = [
        panel.image(values, shown.location, s)
        for values, s in ((a, scale), (b, scale), (apart, wrong))
    ]
    return save_png(board.compose(images, stamp), path)
