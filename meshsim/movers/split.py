"""Cells of every type as triangles or tetrahedra on the same points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from meshsim.geometry.cells import TYPES, Cells, cell_faces
from meshsim.geometry.measure import rings


def simplices(blocks: Sequence[Cells]) -> Int[Tensor, "S k"]:
    """Triangles of 2-D cells, tetrahedra of 3-D ones, alike on both sides of every face.

    Each face is cut from its corner of the smallest number, and each cell from its own (the
    pulling triangulation), so neighbours agree. A cell must be star-shaped from that corner, as
    convex ones are. Nodes that are no corners take no part.

    >>> simplices([Cells("quad", torch.tensor([[3, 2, 1, 4]]))])
    tensor([[1, 4, 3],
            [1, 3, 2]])
    """
    parts = [part for block in blocks for part in _block(block)]
    return torch.cat(parts)


def _block(block: Cells) -> Iterator[Tensor]:
    if block.dim == 2:
        for _, ring in rings(block):
            yield from _fan(ring)
    elif block.type == "polyhedron":
        yield from _polyhedra(block)
    else:
        yield from _solids(block)


def _from_smallest(ring: Tensor) -> Tensor:
    """Rings (n, k) turned so that the smallest number comes first."""
    k = ring.shape[1]
    turn = (ring.argmin(1, keepdim=True) + torch.arange(k, device=ring.device)) % k
    return ring.gather(1, turn)


def _fan(ring: Tensor) -> list[Tensor]:
    """The triangles (n, 3) of polygons (n, k), k - 2 of them, from their smallest corner."""
    ring = _from_smallest(ring)
    return [ring[:, [0, i, i + 1]] for i in range(1, ring.shape[1] - 1)]


def _solids(block: Cells) -> Iterator[Tensor]:
    corners = block.nodes[:, : TYPES[block.type][2]]  # (C, k)
    first = corners.argmin(1)
    for face, _ in cell_faces(block.type):
        away = torch.ones_like(first, dtype=torch.bool)
        for corner in face:
            away &= first != corner
        nodes = corners[away]
        apex = nodes.gather(1, first[away, None])  # (n, 1)
        for triangle in _fan(nodes[:, list(face)]):
            yield torch.cat([apex, triangle], 1)


def _polyhedra(block: Cells) -> Iterator[Tensor]:
    assert block.offsets is not None and block.face_offsets is not None
    cell = torch.repeat_interleave(block.offsets.diff())  # (faces,)
    lowest = torch.stack([f.min() for f in block.nodes.split(block.face_offsets.diff().tolist())])
    apex = lowest.new_full((len(block),), int(block.nodes.max()) + 1)
    apex = apex.scatter_reduce(0, cell, lowest, "amin")
    for ids, ring in rings(block):
        away = (ring != apex[cell[ids], None]).all(1)
        for triangle in _fan(ring[away]):
            yield torch.cat([apex[cell[ids[away]], None], triangle], 1)
