"""From where a mesh is seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshsim.check import InputError, check_known
from meshsim.mesh import Mesh

Array = NDArray[Any]


def used_points(mesh: Mesh) -> Array:
    """(n, D) float64: the points that cells use; others must not move the picture's edges."""
    used = np.zeros(mesh.n_points, bool)
    for block in mesh.cells:
        used[block.nodes.cpu().numpy().reshape(-1)] = True
    return np.asarray(mesh.points.detach().cpu().double().numpy()[used])


@dataclass(frozen=True, eq=False)
class View:
    """A parallel projection and the rectangle of it that a picture shows.

    Arguments:
        axes: (2, 2) or (3, 3) float, rows: to the right, up (and towards the eye).
        low: (2,) lower left corner in the picture's plane, in units of length.
        high: (2,) upper right corner.
    """

    axes: Array
    low: Array
    high: Array

    @property
    def flat(self) -> bool:
        """True for a planar mesh, whose picture carries coordinates."""
        return len(self.axes) == 2

    @property
    def aspect(self) -> float:
        """Width over height."""
        across, up = self.high - self.low
        return float(across / up)

    def reach(self, axis: int) -> tuple[float, float]:
        """Least and greatest coordinate across (0) or up (1)."""
        return float(self.low[axis]), float(self.high[axis])

    def pixels(self, points: Array, width: int, height: int) -> Array:
        """Across, down (in pixels of a picture of that size) and depth: (N, 3) float."""
        seen = points @ self.axes.T
        scale = min((width, height) / (self.high - self.low))
        centre = (self.low + self.high) / 2
        out = np.zeros((len(points), 3))
        out[:, 0] = width / 2 + (seen[:, 0] - centre[0]) * scale
        out[:, 1] = height / 2 - (seen[:, 1] - centre[1]) * scale
        if seen.shape[1] == 3:
            out[:, 2] = -seen[:, 2]
        return out


def _unit(x: Any) -> Array:
    x = np.asarray(x, dtype=np.float64)
    return x / np.linalg.norm(x)


def upright(points: Array) -> str:
    """The axis that points upwards, as far as the shape tells.

    A body that stands on the ground lies on one side of zero along one axis, which is not its
    longest; one without such an axis, but clearly flat, lies with its shortest axis up; for all
    others it is z.
    """
    low, high = points.min(0), points.max(0)
    extent = high - low
    standing = [a for a in range(3) if low[a] > -0.02 * extent[a]]
    if len(standing) == 1 and extent[standing[0]] < extent.max():
        return "xyz"[standing[0]]
    first, second, _ = np.argsort(extent, kind="stable")
    return "xyz"[first] if extent[first] < 0.65 * extent[second] else "z"


def look(points: Array, view: str = "auto", up: str | None = None) -> View:
    """The view on points: from the front for planar meshes, from a raised corner for others.

    Arguments:
        points: (N, 2|3) float, everything that is to be seen.
        view: "auto", or "x", "y", "z" for the view along that axis.
        up: "x", "y" or "z"; None: a guess, see `upright`.

    Returns:
        A view whose rectangle encloses the points.
    """
    if up is not None:
        check_known(up, "xyz", "axis")
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        raise InputError("`points`: none of them is finite")
    if points.shape[1] == 2:
        axes = np.eye(2)
    else:
        extent = np.ptp(points, axis=0)
        order = np.argsort(extent, kind="stable")
        flat = extent[order[0]] < 1e-6 * extent[order[2]]
        if view == "auto" and flat and up != "xyz"[order[0]]:
            view = "xyz"[order[0]]
        if up is None:
            up = upright(points) if view == "auto" else "y" if view == "z" else "z"
        if view != "auto":
            check_known(view, "xyz", "axis")
        if up == view:
            raise InputError(f"cannot look along {view} with {up} up")
        upward = np.eye(3)["xyz".index(up)]
        if view == "auto":
            long, short = sorted((a for a in range(3) if "xyz"[a] != up), key=lambda a: -extent[a])
            if extent[long] < 1.2 * extent[short]:
                long, short = min(long, short), max(long, short)
            right = np.eye(3)[long]
            side = np.cross(upward, right)  # away from the eye
            # bodies mostly meet the wind with their low end: look at that one
            towards = _unit(-side - 0.6 * right + 0.5 * upward)
        else:
            towards = np.eye(3)["xyz".index(view)] * (-1.0 if view == "y" else 1.0)
        right = _unit(np.cross(upward, towards))
        axes = np.stack([right, np.cross(towards, right), towards])
    seen = points @ axes[:2].T
    low, high = seen.min(0), seen.max(0)
    size = float((high - low).max()) or 1.0
    # nothing is thinner than a thirtieth of its length, so that lines can be seen too
    thin = np.maximum((size / 30 - (high - low)) / 2, 0)
    grow = thin + size * (0.004 if len(axes) == 2 else 0.02)
    return View(axes, low - grow, high + grow)
