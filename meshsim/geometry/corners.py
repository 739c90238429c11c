"""The signed measure at every corner of a cell: where the map from its reference cell folds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.geometry.cells import TYPES, Cells, cell_faces
from meshsim.geometry.columns import gather, polygons
from meshsim.geometry.measure import CHUNK, cross, lift

# Corners of the reference cells, in VTK's order.
_SQUARE = ((0, 0), (1, 0), (1, 1), (0, 1))
_REFERENCE: dict[str, tuple[tuple[float, ...], ...]] = {
    "triangle": ((0, 0), (1, 0), (0, 1)),
    "quad": _SQUARE,
    "tetra": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "wedge": tuple((*p, z) for z in (0, 1) for p in ((0, 0), (1, 0), (0, 1))),
    "hexahedron": tuple((*p, z) for z in (0, 1) for p in _SQUARE),
}
# Powers of the coordinates that a cell's shape functions are made of.
_Powers = tuple[tuple[int, ...], ...]


def _up_to(degrees: tuple[int, ...], most: int = 99) -> _Powers:
    every = itertools.product(*(range(d + 1) for d in degrees))
    return tuple(p for p in every if sum(p) <= most)


def _serendipity(dim: int) -> _Powers:
    """At most one square: Zienkiewicz's quadratic elements with nodes on edges only."""
    return tuple(p for p in _up_to((2,) * dim) if p.count(2) <= 1)


_FLAT = _up_to((2, 2), 2)  # x and y of a wedge's triangle
_POWERS: dict[str, _Powers] = {
    "triangle6": _FLAT,
    "triangle7": _FLAT,  # and the bubble: see `_terms`
    "quad": _up_to((1, 1)),
    "quad8": _serendipity(2),
    "quad9": _up_to((2, 2)),
    "tetra10": _up_to((2, 2, 2), 2),
    "wedge": tuple((*p, z) for p in _up_to((1, 1), 1) for z in (0, 1)),
    "wedge15": tuple((*p, z) for p in _FLAT for z in (0, 1))
    + tuple((*p, 2) for p in _up_to((1, 1), 1)),
    "wedge18": tuple((*p, z) for p in _FLAT for z in (0, 1, 2)),
    "hexahedron": _up_to((1, 1, 1)),
    "hexahedron20": _serendipity(3),
    "hexahedron24": (*_serendipity(3), (0, 2, 2), (1, 2, 2), (2, 0, 2), (2, 1, 2)),
    "hexahedron27": _up_to((2, 2, 2)),
}
# A pyramid's corners and those that its edges lead to, in the order of a positive volume.
_PYRAMID = ((0, (1, 3, 4)), (1, (2, 0, 4)), (2, (3, 1, 4)), (3, (0, 2, 4)))
_PYRAMID_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (1, 4), (2, 4), (3, 4))


# Simplices with corners only cannot fold.
_LINEAR: dict[str, _Powers] = {"triangle": _up_to((1, 1), 1), "tetra": _up_to((1, 1, 1), 1)}


def places(type: str) -> Tensor:
    """(k, D) reference coordinates of all nodes."""
    corners = torch.tensor(_REFERENCE[type.rstrip("0123456789")], dtype=torch.float64)
    _, k, n, _ = TYPES[type]
    out = torch.zeros(k, corners.shape[1], dtype=torch.float64)
    out[:n] = corners
    if k > n:
        out[k - 1] = corners.mean(0)  # where it is not the cell's centre it is written over
        for face, mids in cell_faces(type):
            ring = list(zip(face, face[1:] + face[:1], strict=True)) if len(face) > 2 else [face]
            for node, between in zip(mids, [*ring, face], strict=False):
                out[node] = corners[list(between)].mean(0)
    return out


def _terms(type: str, x: Tensor, by: int | None) -> Tensor:
    """(k, k) the powers at x (k, D), or their derivatives by one coordinate."""

    def term(power: tuple[int, ...]) -> Tensor:
        out = torch.ones_like(x[:, 0])
        for i, p in enumerate(power):
            if i == by:
                out, p = out * p, max(p - 1, 0)
            for _ in range(p):
                out = out * x[:, i]
        return out

    columns = [term(p) for p in (_POWERS | _LINEAR)[type]]
    if type == "triangle7":
        columns.append(term((2, 1)) + term((1, 2)))
    return torch.stack(columns, 1)


@cache
def _inverse(type: str) -> Tensor:
    """(k, k) that takes the powers to the shape functions."""
    return torch.linalg.inv(_terms(type, places(type), None))


def shapes(type: str, x: Float[Tensor, "n D"]) -> Tensor:
    """(n, k) shape functions of a cell's nodes at reference coordinates."""
    return _terms(type, x, None) @ _inverse(type)


def shape_slopes(type: str, x: Float[Tensor, "n D"]) -> Tensor:
    """(D, n, k) derivatives of the shape functions by each reference coordinate."""
    return torch.stack([_terms(type, x, by) @ _inverse(type) for by in range(x.shape[1])])


@cache
def _slopes(type: str) -> Tensor:
    """(D, k, k): derivative of shape function j at node i by each reference coordinate."""
    return shape_slopes(type, places(type))


def corner_measures(points: Float[Tensor, "N D"], block: Cells) -> Float[Tensor, "C k"] | None:
    """det ∂x/∂ξ at the nodes of each cell, times the sign of a cell that is listed the right way.

    At a corner of a quad or hexahedron this is the area or volume that its edges span. On a
    surface in space it is taken along the cell's area vector. Of pyramids the corners of the base
    are looked at (with the slopes of curved edges there), as the map is singular at the apex.

    Arguments:
        points: (N, D) float.
        block: cells of one type.

    Returns:
        (C, k) float64; None for types that cannot fold: simplices, polygons, polyhedra, lines.

    >>> arrow = torch.tensor([[0.0, 0.0], [2.0, 1.0], [0.0, 2.0], [1.0, 1.0]])
    >>> corner_measures(arrow, Cells("quad", torch.tensor([[0, 1, 2, 3]])))
    tensor([[ 1.,  4.,  1., -2.]], dtype=torch.float64)
    """
    if block.type not in _POWERS and not block.type.startswith("pyramid"):
        return None
    x = lift(points).t().contiguous()
    parts = [x.new_zeros(4 if block.type not in _POWERS else block.nodes.shape[1], 0)]
    for nodes in block.nodes.split(CHUNK):
        p = gather(x, nodes)  # (3, k, C)
        if block.type not in _POWERS:
            parts.append(_pyramid(p))
            continue
        slopes = _slopes(block.type).to(x.device)
        along = (slopes[:, None] @ p).transpose(0, 1)  # (3, D, k, C)
        vector = cross(along[:, 0], along[:, 1])  # (3, k, C)
        if block.dim == 3:
            parts.append((vector * along[:, 2]).sum(0))
        elif points.shape[1] == 2:
            parts.append(vector[2])
        else:
            normal = polygons(p[:, : TYPES[block.type][2]])[0]
            length = normal.square().sum(0).sqrt().clamp(min=1e-300)
            parts.append((vector * (normal / length)[:, None]).sum(0))
    return torch.cat(parts, 1).t()


def _pyramid(p: Tensor) -> Tensor:
    """(4, C) volumes that the edges span at the corners of the base."""
    middle = {frozenset(e): 5 + i for i, e in enumerate(_PYRAMID_EDGES)} if p.shape[1] > 5 else {}

    def leave(a: int, b: int) -> Tensor:
        if not middle:
            return p[:, b] - p[:, a]
        # The slope at its beginning of the parabola through the edge's nodes.
        return 4 * p[:, middle[frozenset((a, b))]] - 3 * p[:, a] - p[:, b]

    out = [(cross(leave(a, i), leave(a, j)) * leave(a, k)).sum(0) for a, (i, j, k) in _PYRAMID]
    return torch.stack(out)


def folded(
    points: Float[Tensor, "N D"], blocks: Sequence[Cells], tolerance: float = 1e-9
) -> Int[Tensor, " n"]:
    """Cells whose measure at some corner or node has another sign than on the whole.

    A cell turned inside out as a whole is none of them (`quality.inverted`); neither are corners
    that are flat or fall together (measure 0).

    Arguments:
        tolerance: of the mean size of a cell's measures at its corners.

    Returns:
        (n,) int64 cell numbers, rising.
    """
    found, first = [torch.zeros(0, dtype=torch.int64, device=points.device)], 0
    for block in blocks:
        size = corner_measures(points, block)
        if size is not None and len(block):
            total = size.sum(1, keepdim=True)
            least = (size * torch.where(total < 0, -1.0, 1.0)).amin(1)
            bad = least < -tolerance * size.abs().mean(1)
            found.append(bad.nonzero().squeeze(1) + first)
        first += len(block)
    return torch.cat(found)
