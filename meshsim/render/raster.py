"""From triangles to pixels: which triangle each pixel sees, and where in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CHUNK = 50_000  # samples held at once: few enough to stay in the cache


def _repeat(count: Array, start: int, stop: int) -> tuple[Array, Array]:
    """Each i in start..stop as often as `count[i]` says, and a counter within it."""
    n = count[start:stop]
    which = np.repeat(np.arange(start, stop), n)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(n) - n, n)


def _rows(lines: Array, low: Array, high: Array, width: int) -> tuple[Array, Array, Array, Array]:
    """The runs of samples that triangles cover: triangle, row, first sample and length of each."""
    t, k = _repeat((high - low + 1).clip(0), 0, len(low))
    row = low[t] + k
    slope, at = lines[t, :, 0], lines[t, :, 1] * (row[:, None] + 0.5) + lines[t, :, 2]
    # weight i is slope · x + at: its zero bounds the run from the left or from the right
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = -at / slope
    left = np.where(slope > 0, zero, -np.inf).max(1)
    right = np.where(slope < 0, zero, np.inf).min(1)
    apart = ((slope == 0) & (at < -1e-9)).any(1)
    first = np.ceil(left - 0.5 - 1e-7).clip(0, width).astype(np.int64)
    last = np.floor(right - 0.5 + 1e-7).clip(-1, width - 1).astype(np.int64)
    return t, row, first, np.where(apart, 0, (last - first + 1).clip(0))


def rasterise(corners: Array, width: int, height: int) -> tuple[Array, Array]:
    """Find the nearest triangle at every sample of a grid.

    The barycentric weights come from the edge functions of Pineda, A parallel algorithm for
    polygon rasterization, SIGGRAPH 1988, eq. 2; depth is linear, as in any parallel projection.

    Arguments:
        corners: (M, 3, 3) float: across, down and depth (smaller is nearer) of each corner,
            in samples; sample (i, j) lies at (i + 0.5, j + 0.5).
        width: samples across.
        height: samples down.

    Returns:
        (height · width,) int64 triangle of each sample, −1 where there is none; and
        (height · width, 3) float32 barycentric weights.

    >>> triangle, weights = rasterise(np.array([[[0, 0, 0], [8, 0, 0], [0, 8, 0.0]]]), 2, 2)
    >>> triangle.tolist()
    [0, 0, 0, 0]
    """
    seen = np.full(width * height, -1, np.int64)
    weights = np.zeros((width * height, 3), np.float32)
    finite = np.asarray(np.isfinite(corners).all(axis=(1, 2)))
    corners = np.where(finite[:, None, None], corners, 0.0)
    b, c = np.roll(corners, -1, 1), np.roll(corners, -2, 1)  # the corners opposite: (M, 3, 3)
    bx, by, cx, cy = b[..., 0], b[..., 1], c[..., 0], c[..., 1]
    lines = np.stack([by - cy, cx - bx, bx * cy - cx * by], -1)
    # (M, 3, 3): weight i of a sample at (x, y) is lines[i] · (x, y, 1) over twice the area
    twice = lines[..., 2].sum(1)
    usable = np.flatnonzero(finite & (twice != 0))
    lines = lines[usable] / twice[usable, None, None]
    down, depth = corners[usable, :, 1], corners[usable, :, 2]
    low = np.ceil(down.min(1) - 0.5).clip(0, height).astype(np.int64)
    high = np.floor(down.max(1) - 0.5).clip(-1, height - 1).astype(np.int64)
    t, row, first, length = _rows(lines, low, high, width)
    nearest = np.full(width * height, np.inf) if len(usable) and np.ptp(depth) > 0 else None
    ends = np.cumsum(length)
    start = 0
    while start < len(t):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + CHUNK, side="right")))
        run, k = _repeat(length, start, stop)
        of, x, y = t[run], first[run] + k, row[run]
        pixel = y * width + x
        line = lines[of]  # (S, 3, 3)
        w = line[..., 0] * (x[:, None] + 0.5) + line[..., 1] * (y[:, None] + 0.5) + line[..., 2]
        if nearest is not None:
            z = (w * depth[of]).sum(1)
            np.minimum.at(nearest, pixel, z)
            win = z == nearest[pixel]
            of, pixel, w = of[win], pixel[win], w[win]
        seen[pixel] = usable[of]
        weights[pixel] = w
        start = stop
    return seen, weights


def thicken(corners: Array, half: float) -> tuple[Array, Array]:
    """Triangles that draw segments or points with a width.

    Arguments:
        corners: (M, k, 3) float in samples, k = 2 (segments) or 1 (points).
        half: half the width, in samples.

    Returns:
        (2M, 3, 3) triangles, and (2M, 3) int64: which end each corner of them stands for.
    """
    a, b = corners[:, 0], corners[:, -1]
    along = (b - a)[:, :2]
    length = np.linalg.norm(along, axis=1, keepdims=True)
    along = np.where(length > 0, along / np.where(length > 0, length, 1.0), [[1.0, 0.0]]) * half
    across = np.pad(np.stack([-along[:, 1], along[:, 0]], 1), [(0, 0), (0, 1)])
    along = np.pad(along, [(0, 0), (0, 1)])
    p, q = a - along + across, a - along - across
    r, s = b + along + across, b + along - across
    last = corners.shape[1] - 1
    ends = np.array([[0, 0, last], [last, last, 0]])
    return np.concatenate([np.stack([p, q, r], 1), np.stack([r, s, q], 1)]), np.repeat(
        ends, len(corners), axis=0
    )


def stroke(image: Array, segments: Array, width: float, colour: tuple[int, int, int]) -> Array:
    """The image with segments drawn over it.

    Arguments:
        image: (height, width, 3) uint8.
        segments: (n, 2, 2) float: across and down of both ends, in pixels.
        width: of the line, in pixels.
        colour: 0..255.
    """
    n, (high, wide) = 3, image.shape[:2]
    ends = np.pad(segments * n, [(0, 0), (0, 0), (0, 1)])
    seen, _ = rasterise(thicken(ends, width * n / 2)[0], wide * n, high * n)
    cover = (seen >= 0).reshape(high, n, wide, n).mean((1, 3))[..., None]
    return np.asarray(np.rint(image * (1 - cover) + np.array(colour) * cover), np.uint8)
