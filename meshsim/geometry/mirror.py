"""Cells listed the other way round."""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Bool
from torch import Tensor

from meshsim.check import InputError
from meshsim.geometry.cells import TYPES, Cells, cell_faces

# The corners of a cell's mirror image; each its own inverse.
_CORNERS: dict[str, tuple[int, ...]] = {
    "vertex": (0,),
    "line": (1, 0),
    "triangle": (0, 2, 1),
    "quad": (0, 3, 2, 1),
    "tetra": (0, 2, 1, 3),
    "pyramid": (0, 3, 2, 1, 4),
    "wedge": (0, 2, 1, 3, 5, 4),
    "hexahedron": (0, 3, 2, 1, 4, 7, 6, 5),
}


@cache
def mirror(type: str) -> tuple[int, ...]:
    """The order of a standard cell's nodes that turns it inside out.

    >>> mirror("triangle6")
    (0, 2, 1, 5, 4, 3)
    """
    corners = _CORNERS[type.rstrip("0123456789")]
    _, k, n, _ = TYPES[type]
    between = {k - 1: frozenset(range(n))}  # of which corners a node is the middle
    if TYPES[type][0] > 1:
        for face, mids in cell_faces(type):
            ring = list(zip(face, face[1:] + face[:1], strict=True)) if len(face) > 2 else [face]
            between |= {m: frozenset(s) for m, s in zip(mids, [*ring, face], strict=False)}
    at = {middle: node for node, middle in between.items()}
    turned = (at[frozenset(corners[c] for c in between[m])] for m in range(n, k))
    return (*corners, *turned)


def mirrored(block: Cells, rows: Bool[Tensor, " C"]) -> Cells:
    """The block with some of its cells turned: polygons run the other way round.

    Raises:
        InputError: polyhedra, which have no way of their own.

    >>> block = Cells("tetra", torch.tensor([[0, 1, 2, 3]]))
    >>> mirrored(block, torch.tensor([True])).nodes
    tensor([[0, 2, 1, 3]])
    """
    if block.type == "polyhedron":
        raise InputError("polyhedra cannot be turned: their faces are not in one order")
    if block.offsets is None:
        nodes = torch.where(rows[:, None], block.nodes[:, list(mirror(block.type))], block.nodes)
        return Cells(block.type, nodes)
    sizes = block.offsets.diff()
    start = block.offsets[:-1].repeat_interleave(sizes)
    place = torch.arange(len(block.nodes), device=block.nodes.device)
    turned = 2 * start + sizes.repeat_interleave(sizes) - 1 - place
    place = torch.where(rows.repeat_interleave(sizes), turned, place)
    return Cells(block.type, block.nodes[place], block.offsets)
