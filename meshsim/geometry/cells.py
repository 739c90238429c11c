"""Cell types: their tables and the typed block of cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from meshsim.check import InputError, check_index, check_known
from meshsim.rows import slices

# name: (dimension, nodes per cell, corners, VTK type number); meshio's names, VTK's node order.
# Number 0: VTK has no such type.
TYPES: dict[str, tuple[int, int, int, int]] = {
    "vertex": (0, 1, 1, 1),
    "line": (1, 2, 2, 3),
    "line3": (1, 3, 2, 21),
    "triangle": (2, 3, 3, 5),
    "triangle6": (2, 6, 3, 22),
    "triangle7": (2, 7, 3, 34),
    "quad": (2, 4, 4, 9),
    "quad8": (2, 8, 4, 23),
    "quad9": (2, 9, 4, 28),
    "tetra": (3, 4, 4, 10),
    "tetra10": (3, 10, 4, 24),
    "hexahedron": (3, 8, 8, 12),
    "hexahedron20": (3, 20, 8, 25),
    "hexahedron24": (3, 24, 8, 33),
    "hexahedron27": (3, 27, 8, 29),
    "wedge": (3, 6, 6, 13),
    "wedge15": (3, 15, 6, 26),
    "wedge18": (3, 18, 6, 32),
    "pyramid": (3, 5, 5, 14),
    "pyramid13": (3, 13, 5, 27),
    "pyramid14": (3, 14, 5, 0),
    "pyramid19": (3, 19, 5, 37),
    "polygon": (2, 0, 0, 7),
    "polyhedron": (3, 0, 0, 42),
}
VTK_NAMES: dict[int, str] = {n: name for name, (_, _, _, n) in TYPES.items() if n}

# Edges by their corners; a quadratic cell's midside nodes follow its corners in this order.
_EDGES: dict[str, tuple[tuple[int, int], ...]] = {
    "line": ((0, 1),),
    "triangle": ((0, 1), (1, 2), (2, 0)),
    "quad": ((0, 1), (1, 2), (2, 3), (3, 0)),
    "tetra": ((0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)),
    "pyramid": ((0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (1, 4), (2, 4), (3, 4)),
    "wedge": ((0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (0, 3), (1, 4), (2, 5)),
    "hexahedron": (
        *((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4)),
        *((0, 4), (1, 5), (2, 6), (3, 7)),
    ),
}
# Faces by their corners, right-hand normal outwards for a cell of positive measure.
_FACES: dict[str, tuple[tuple[int, ...], ...]] = {
    "vertex": (),
    "line": ((0,), (1,)),
    "triangle": _EDGES["triangle"],
    "quad": _EDGES["quad"],
    "tetra": ((0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)),
    "pyramid": ((0, 3, 2, 1), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)),
    "wedge": ((0, 2, 1), (3, 4, 5), (0, 1, 4, 3), (1, 2, 5, 4), (2, 0, 3, 5)),
    "hexahedron": (
        *((0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4)),
        *((1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)),
    ),
}
# The node at the centre of each face of `_FACES` (None: there is none), and of the cell.
_CENTRES: dict[str, tuple[tuple[int | None, ...], int | None]] = {
    "triangle7": ((None,) * 3, 6),
    "quad9": ((None,) * 4, 8),
    "hexahedron24": ((None, None, 22, 21, 23, 20), None),
    "hexahedron27": ((24, 25, 22, 21, 23, 20), 26),
    "wedge18": ((None, None, 15, 16, 17), None),
    "pyramid14": ((13, None, None, None, None), None),
    "pyramid19": ((13, 14, 15, 16, 17), 18),
}


@cache
def cell_faces(type: str) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Each face of a standard cell as (corners, nodes between them), in local numbers.

    Corners are ordered so that the right-hand normal points out of a cell of positive measure.

    >>> cell_faces("triangle6")
    (((0, 1), (3,)), ((1, 2), (4,)), ((2, 0), (5,)))
    """
    shape = type.rstrip("0123456789")
    _, k, corners, _ = TYPES[type]
    if TYPES[type][0] <= 1 or k == corners:
        return tuple((face, ()) for face in _FACES[shape])
    between = {frozenset(edge): corners + i for i, edge in enumerate(_EDGES[shape])}
    centres, _ = _CENTRES.get(type, ((None,) * len(_FACES[shape]), None))
    faces = []
    for face, centre in zip(_FACES[shape], centres, strict=True):
        ring = zip(face, face[1:] + face[:1], strict=True) if len(face) > 2 else [face]
        mids = [between[frozenset(edge)] for edge in ring]
        faces.append((face, tuple(mids if centre is None else [*mids, centre])))
    return tuple(faces)


@cache
def cell_edges(type: str) -> tuple[tuple[int, int], ...]:
    """The edges of a standard cell as pairs of local numbers.

    A quadratic edge is two: corner to midside node, midside node to corner. The node at the
    centre of a face joins the face's midside nodes, the one at the centre of a cell those of the
    faces (in 2-D, the midside nodes), so that no node is left alone.

    >>> cell_edges("line3")
    ((0, 2), (2, 1))
    """
    shape = type.rstrip("0123456789")
    dim, k, corners, _ = TYPES[type]
    if dim == 0 or k == corners:
        return _EDGES.get(shape, ())
    edges = []
    for i, (a, b) in enumerate(_EDGES[shape]):
        edges += [(a, corners + i), (corners + i, b)]
    centres, middle = _CENTRES.get(type, ((), None))
    for (_, between), centre in zip(cell_faces(type), centres, strict=False):
        edges += [(m, centre) for m in between if centre is not None and m != centre]
    if middle is not None:
        around = (c for c in centres if c is not None) if dim == 3 else range(corners, middle)
        edges += [(m, middle) for m in around]
    return tuple(edges)


@dataclass(frozen=True, eq=False)
class Cells:
    """A block of cells of one type.

    Arguments:
        type: one of `TYPES` (meshio's names, VTK's node order).
        nodes: (C, k) int64 point indices; for polygon and polyhedron (n,), flat.
        offsets: polygon: (C + 1,), cell c has the points `nodes[offsets[c]:offsets[c + 1]]`;
            polyhedron: (C + 1,), cell c has the faces `offsets[c]:offsets[c + 1]`.
        face_offsets: polyhedron only: (n_faces + 1,), face f has the points
            `nodes[face_offsets[f]:face_offsets[f + 1]]`. A face is listed once for each cell.
    """

    type: str
    nodes: Tensor
    offsets: Tensor | None = None
    face_offsets: Tensor | None = None

    def __post_init__(self) -> None:
        check_known(self.type, TYPES, "cell type")
        for name in ("nodes", "offsets", "face_offsets"):
            value = getattr(self, name)
            if value is None:
                continue
            index = torch.as_tensor(value)
            if index.numel() and (index.is_floating_point() or index.dtype == torch.bool):
                raise InputError(
                    f"`cells[{self.type}].{name}`: expected whole numbers, got {index.dtype}"
                )
            object.__setattr__(self, name, index.long())
        k = TYPES[self.type][1]
        if k and (self.nodes.dim() != 2 or self.nodes.shape[1] != k):
            raise InputError(
                f"`cells`: {self.type} needs shape (C, {k}), got {tuple(self.nodes.shape)}"
            )
        if k and self.offsets is not None:
            raise InputError(f"`cells`: {self.type} has no `offsets`")
        if not k and (self.nodes.dim() != 1 or self.offsets is None):
            raise InputError(f"`cells`: {self.type} needs flat `nodes` (n,) and `offsets` (C + 1,)")
        if self.type == "polyhedron" and self.face_offsets is None:
            raise InputError("`cells`: polyhedron needs `face_offsets` (faces + 1,)")
        for name, offsets in (("offsets", self.offsets), ("face_offsets", self.face_offsets)):
            if offsets is not None and (offsets.dim() != 1 or len(offsets) == 0):
                raise InputError(f"`cells[{self.type}].{name}`: expected shape (n + 1,)")

    def __len__(self) -> int:
        return len(self.nodes) if self.offsets is None else len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """Topological dimension of the cells: 0, 1, 2 or 3."""
        return TYPES[self.type][0]

    def check(self, n_points: int) -> None:
        """Raise `InputError` unless every index is inside and the offsets fit."""
        check_index(self.nodes, n_points, f"cells[{self.type}]")
        last = self.nodes
        for name, offsets in (("face_offsets", self.face_offsets), ("offsets", self.offsets)):
            if offsets is None:
                continue
            rises = len(offsets) > 0 and int(offsets[0]) == 0 and bool((offsets.diff() >= 0).all())
            if not rises or int(offsets[-1]) != len(last):
                raise InputError(
                    f"`cells[{self.type}].{name}`: expected a rising list from 0 to {len(last)}"
                )
            last = torch.zeros(len(offsets) - 1)

    def map(self, f: Callable[[Tensor], Tensor]) -> Cells:
        """The block with `f` applied to each of its tensors (`.to(device)`, for instance)."""
        return Cells(
            self.type,
            f(self.nodes),
            None if self.offsets is None else f(self.offsets),
            None if self.face_offsets is None else f(self.face_offsets),
        )


def take(block: Cells, ids: Int[Tensor, " n"]) -> Cells:
    """Some cells of a block, in the order asked for; polygons and polyhedra too.

    >>> take(Cells("polygon", torch.tensor([0, 1, 2, 2, 3, 4, 5]), torch.tensor([0, 3, 7])),
    ...      torch.tensor([1])).nodes
    tensor([2, 3, 4, 5])
    """
    if block.offsets is None:
        return Cells(block.type, block.nodes[ids])
    inner, offsets = slices(block.offsets, ids)
    if block.face_offsets is None:
        return Cells(block.type, block.nodes[inner], offsets)
    nodes, faces = slices(block.face_offsets, inner)
    return Cells(block.type, block.nodes[nodes], offsets, faces)
