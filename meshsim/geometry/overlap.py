"""Which boxes overlap, and the measure that simplices have in common."""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from meshsim.check import check_length, check_shape
from meshsim.ops.order import morton_order

Array = NDArray[Any]
_FAN = 8
_AT_ONCE = 200_000  # pairs
# What is left of a simplex with so many corners inside, as simplices: "a" is a corner, "ab" the cut
# between two. Corners inside come first; prisms are cut in three.
_LEFT: dict[tuple[int, int], tuple[tuple[str, ...], ...]] = {
    (2, 1): (("a", "ab", "ac"),),
    (2, 2): (("a", "b", "bc"), ("a", "bc", "ac")),
    (3, 1): (("a", "ab", "ac", "ad"),),
    (3, 2): (("a", "ac", "ad", "bd"), ("a", "ac", "bc", "bd"), ("a", "b", "bc", "bd")),
    (3, 3): (("a", "b", "c", "cd"), ("a", "b", "bd", "cd"), ("a", "ad", "bd", "cd")),
}


def overlapping_boxes(low: Array, high: Array, other_low: Array, other_high: Array) -> Any:
    """(P,), (P,) numbers of boxes (n, D) and of others (m, D) that touch; sorted by the first.

    >>> low = np.array([[0.0, 0.0], [2.0, 0.0]])
    >>> overlapping_boxes(low, low + 1, low + 0.5, low + 0.6)
    (array([0, 1]), array([0, 1]))
    """
    none = np.zeros(0, np.int64)
    if not len(low) or not len(other_low):
        return none, none
    order = morton_order(torch.from_numpy(0.5 * other_low + 0.5 * other_high)).numpy()
    levels = [(other_low[order], other_high[order])]
    while len(levels[0][0]) > _FAN:
        small, large = levels[0]
        starts = np.arange(0, len(small), _FAN)
        levels.insert(
            0, (np.minimum.reduceat(small, starts), np.maximum.reduceat(large, starts))
        )  # fmt: skip
    found: list[tuple[Array, Array]] = []
    for first in range(0, len(low), 4096):
        some_low, some_high = low[first : first + 4096], high[first : first + 4096]
        box = np.repeat(np.arange(len(some_low)), len(levels[0][0]))
        other = np.tile(np.arange(len(levels[0][0])), len(some_low))
        for i, (small, large) in enumerate(levels):
            if i:
                box = box.repeat(_FAN)
                other = (other[:, None] * _FAN + np.arange(_FAN)).reshape(-1)
                real = other < len(small)
                box, other = box[real], other[real]
            near = ((small[other] <= some_high[box]) & (large[other] >= some_low[box])).all(1)
            box, other = box[near], other[near]
        found.append((first + box, order[other]))
    a, b = (np.concatenate(parts) for parts in zip(*found, strict=True))
    by = np.lexsort((b, a))
    return a[by], b[by]


def common_measure(
    a: Float[Tensor, "P k D"], b: Float[Tensor, "Q j E"]
) -> tuple[Float[Tensor, " P"], Float[Tensor, "P D"]]:
    """Measure of the intersection of each pair of simplices, and its first moment.

    One is clipped by the half-spaces of the other, one after the other (Sutherland and Hodgman,
    Commun. ACM 17, 1974), and cut into simplices again after each; exact but for rounding.

    Arguments:
        a, b: (P, D + 1, D) float64 triangles or tetrahedra, wound either way.

    Returns:
        (P,) |a ∩ b| and (P, D) ∫ x over it.

    Raises:
        InputError: shapes do not fit.

    >>> a = torch.tensor([[[0., 0.], [2., 0.], [0., 2.]]], dtype=torch.float64)
    >>> common_measure(a, a.flip(1) + 1)[0], common_measure(a, a / 2)[0]
    (tensor([0.], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    dim = a.shape[2]
    check_shape(a, (None, dim + 1, dim), "a")
    check_shape(b, (None, dim + 1, dim), "b")
    check_length(b, len(a), "b", "a")
    size, moment = np.zeros(len(a)), np.zeros((len(a), dim))
    x, y = (t.detach().cpu().double().numpy() for t in (a, b))
    for first in range(0, len(a), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        size[some], moment[some] = _common(x[some], y[some])
    return torch.from_numpy(size), torch.from_numpy(moment)


def _common(a: Array, b: Array) -> tuple[Array, Array]:
    count, k, dim = a.shape
    origin = b[:, :1]  # small numbers round less
    x = a - origin
    normals, offsets = _half_spaces(b - origin)
    backwards = _half_spaces(x)
    pair = np.arange(count)
    inside = np.ones(count, bool)
    for (n, c), z in (((normals, offsets), x), (backwards, b - origin)):
        for i in range(k):
            inside &= (_heights(z, n[:, i], c[:, i]) > 0).any(1)
    pair = pair[inside]
    pieces = x[pair]
    for i in range(k):
        h = _heights(pieces, normals[pair, i], offsets[pair, i])
        pieces, pair = _clipped(pieces, pair, h)
    volume = np.abs(_determinant(pieces)) / factorial(dim)
    centre = pieces.mean(1)
    size = np.bincount(pair, volume, count)
    moment = np.stack([np.bincount(pair, volume * centre[:, d], count) for d in range(dim)], 1)
    return size, moment + size[:, None] * origin[:, 0]


def _half_spaces(b: Array) -> tuple[Array, Array]:
    """(P, k, D) and (P, k): n·x + c is 0 on the face opposite corner i, and above 0 at it."""
    k = b.shape[1]
    normals, offsets = np.empty_like(b), np.empty(b.shape[:2])
    for i in range(k):
        face = np.delete(b, i, 1)
        e = face[:, 1:] - face[:, :1]
        if k == 3:
            n = np.stack([e[:, 0, 1], -e[:, 0, 0]], 1)
        else:
            n = np.cross(e[:, 0], e[:, 1])
        c = -(n * face[:, 0]).sum(1)
        sign = np.sign((n * b[:, i]).sum(1) + c)
        normals[:, i], offsets[:, i] = n * sign[:, None], c * sign
    return normals, offsets


def _heights(x: Array, normal: Array, offset: Array) -> Array:
    return np.einsum("pkd,pd->pk", x, normal) + offset[:, None]


def _clipped(x: Array, pair: Array, h: Array) -> tuple[Array, Array]:
    """Simplices of what lies where h > 0."""
    k = x.shape[1]
    count = (h > 0).sum(1)
    whole = count == k
    out, pairs = [x[whole]], [pair[whole]]
    for inside in range(1, k):
        rows = np.flatnonzero(count == inside)
        if not len(rows):
            continue
        order = np.argsort(h[rows] <= 0, axis=1, kind="stable")
        corners = np.take_along_axis(x[rows], order[:, :, None], 1)
        heights = np.take_along_axis(h[rows], order, 1)
        known: dict[str, Array] = {}

        def at(name: str, corners: Array = corners, heights: Array = heights) -> Array:
            i, j = "abcd".index(name[0]), "abcd".index(name[-1])
            if i == j:
                return corners[:, i]
            t = heights[:, i] / (heights[:, i] - heights[:, j])
            return corners[:, i] + t[:, None] * (corners[:, j] - corners[:, i])

        for piece in _LEFT[k - 1, inside]:
            for name in piece:
                if name not in known:
                    known[name] = at(name)
            out.append(np.stack([known[name] for name in piece], 1))
            pairs.append(pair[rows])
    return np.concatenate(out), np.concatenate(pairs)


def _determinant(x: Array) -> Array:
    e = x[:, 1:] - x[:, :1]
    if x.shape[2] == 2:
        return e[:, 0, 0] * e[:, 1, 1] - e[:, 0, 1] * e[:, 1, 0]
    return (e[:, 0] * np.cross(e[:, 1], e[:, 2])).sum(1)
