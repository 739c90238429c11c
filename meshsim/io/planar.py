"""Planar meshes: stored with a third coordinate that says nothing (DESIGN §3, Dimension)."""

from __future__ import annotations

import numpy as np


def plane(points: np.ndarray) -> float | None:
    """The common third coordinate of points (N, 3); None if they are in no such plane."""
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        return None
    z = points[:, 2]
    return float(z[0]) if (z == z[0]).all() else None


def other_plane(points: np.ndarray) -> str:
    """What to say of points in an x–z or y–z plane; "" where there is nothing."""
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        return ""
    for axis, name in ((0, "y-z"), (1, "x-z")):
        if (points[:, axis] == points[0, axis]).all():
            return (
                f"all points have the same {'xy'[axis]}: a planar mesh in the {name} plane,"
                " kept three-dimensional"
            )
    return ""


def flat(values: np.ndarray) -> bool:
    """True for floating-point vectors (N, 3) whose third component is zero everywhere."""
    return (
        values.ndim == 2
        and values.shape[1] == 3
        and values.dtype.kind == "f"
        and not values[:, 2].any()
    )
