"""What is odd about the pieces of a surface or outline, and which way round they should run."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshsim.geometry.cells import Cells
from meshsim.geometry.pieces import area_vectors
from meshsim.geometry.tree import Surface
from meshsim.geometry.winding import windings_by_part
from meshsim.ops import radius
from meshsim.rows import equal_rows

PARTS = 2000  # closed ones, up to which it is looked into which lie in which
MOST = 8  # neighbours of a point that are looked at; more at one place find each other in a chain


def weld(points: Float[Tensor, "P D"], tolerance: float) -> Int[Tensor, " P"]:
    """For each point the first of those at its place, near ones in a chain of steps.

    Arguments:
        points: (P, D) finite.
        tolerance: longest step, 0 for points at exactly one place.

    >>> weld(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1e-7, 0.0]]), 1e-6)
    tensor([0, 1, 0])
    """
    places, same = torch.unique(points + 0.0, dim=0, return_inverse=True)  # −0 and 0 are one
    group = torch.arange(len(places))
    if tolerance > 0:
        rowptr, near = radius(places, places, tolerance, max_neighbors=MOST)
        group = joined(torch.repeat_interleave(rowptr.diff()), near, len(places))
    group = group[same]
    first = torch.full((len(points),), len(points)).scatter_reduce(
        0, group, torch.arange(len(points)), "amin"
    )
    return first[group]


def joined(a: Tensor, b: Tensor, n: int) -> Int[Tensor, " n"]:
    """Numbers 0, 1, … of the connected parts of a graph of n nodes."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array(([True] * len(a), (a.numpy(), b.numpy())), shape=(n, n))
    return torch.from_numpy(connected_components(links, directed=False)[1]).long()


class Ridges(NamedTuple):
    """Where pieces meet: edges of triangles, ends of segments.

    Arguments:
        piece: (E,) the pieces at them, ridge by ridge.
        sign: (E,) ±1, the way in which each runs along it, or begins and ends there.
        ridge: (E,) rising, the number of the ridge.
        shared: (R,) by how many pieces each is.
    """

    piece: Tensor
    sign: Tensor
    ridge: Tensor
    shared: Tensor

    @property
    def open(self) -> int:
        """How many have one piece only."""
        return int((self.shared == 1).sum())

    @property
    def crowded(self) -> int:
        """How many have more than two."""
        return int((self.shared > 2).sum())

    @property
    def uneven(self) -> Bool[Tensor, " R"]:
        """Along which pieces run more often one way than the other; without any nothing is open."""
        return torch.zeros_like(self.shared).index_add(0, self.ridge, self.sign) != 0


def ridges(nodes: Int[Tensor, "T D"]) -> Ridges:
    """The ridges of triangles (D = 3) or segments (D = 2), none of which has a corner twice.

    >>> ridges(torch.tensor([[0, 1, 2], [0, 2, 3]])).shared.tolist()
    [1, 2, 1, 1, 1]
    """
    n, dim = nodes.shape
    if dim == 2:
        ends, sign = nodes.reshape(-1, 1), torch.tensor([-1, 1]).repeat(n)
    else:
        ends = torch.stack([nodes, nodes.roll(-1, 1)], 2).flatten(0, 1)
        sign = (ends[:, 0] < ends[:, 1]).long() * 2 - 1
        ends = ends.sort(1).values
    order, first = equal_rows(ends, int(nodes.max()) + 1 if n else 1)
    ridge = first.long().cumsum(0) - 1
    return Ridges(order // dim, sign[order], ridge, torch.bincount(ridge))


def parts(found: Ridges, n: int) -> Int[Tensor, " n"]:
    """The connected part of each piece: 0 the one of most pieces, then the next.

    Where more than two pieces meet, those are joined that would be open there by themselves: two
    cubes that share an edge are two.
    """
    meet = (found.ridge[1:] == found.ridge[:-1]) & (found.shared[found.ridge[1:]] == 2)
    sheet = joined(found.piece[:-1][meet], found.piece[1:][meet], n)
    several = found.shared[found.ridge] > 2
    key = torch.stack([found.ridge[several], sheet[found.piece[several]]], 1)
    pair, at = torch.unique(key, dim=0, return_inverse=True)
    total = torch.zeros(len(pair), dtype=torch.int64).index_add(0, at, found.sign[several])
    ridge, own = pair[total != 0].unbind(1)
    meet = ridge[1:] == ridge[:-1]
    label = joined(own[:-1][meet], own[1:][meet], int(sheet.max()) + 1 if n else 0)[sheet]
    rank = torch.bincount(label, minlength=1).argsort(descending=True, stable=True).argsort()
    return rank[label]


def against(found: Ridges, n: int) -> tuple[Bool[Tensor, " n"], int]:
    """Which pieces to turn so that neighbours run along their ridges in opposite ways.

    Of each connected part those that are fewer are turned. Ridges of more than two pieces do not
    count. A piece and its turned self are two nodes of a graph; neighbours are joined as they
    agree. A part on which the two meet is one-sided (a Möbius strip) and is left as it is.

    Returns:
        (T,) bool; how many pieces lie on one-sided parts.
    """
    at = torch.nn.functional.pad(found.shared.cumsum(0), (1, 0))[:-1][found.shared == 2]
    a, b = found.piece[at], found.piece[at + 1]
    turn = (found.sign[at] == found.sign[at + 1]).long() * n
    sheet = joined(torch.cat([a, a + n]), torch.cat([b + turn, b + n - turn]), 2 * n)
    plain, other = sheet[:n], sheet[n:]
    group, second = torch.minimum(plain, other), (other < plain).long()
    size = torch.bincount(group, minlength=1)
    many = 2 * torch.zeros_like(size).index_add(0, group, second) > size
    wrong = (second > 0) ^ many[group]
    one_sided = plain == other
    return wrong & ~one_sided, int(one_sided.sum())


def repeated(nodes: Int[Tensor, "T D"]) -> tuple[Bool[Tensor, " T"], Bool[Tensor, " T"]]:
    """Which pieces have the same corners as an earlier one: in the same sense, in either.

    >>> again, _ = repeated(torch.tensor([[0, 1, 2], [1, 2, 0], [0, 2, 1]]))
    >>> again.tolist()
    [False, True, False]
    """
    key = nodes.sort(1).values
    low = nodes.argmin(1, keepdim=True)
    after = nodes.gather(1, (low + 1) % nodes.shape[1])
    sense = (after != key[:, 1:2]).long()  # a triangle's; a segment's is whether it begins high
    if nodes.shape[1] == 2:
        sense = low
    out = []
    for rows in (torch.cat([key, sense], 1), key):
        order, first = equal_rows(rows, int(rows.max()) + 1 if len(rows) else 1)
        again = torch.zeros(len(rows), dtype=torch.bool)
        again[order[~first]] = True
        out.append(again)
    return out[0], out[1]


def enclosed(x: Float[Tensor, "T D D"], label: Int[Tensor, " T"]) -> Float[Tensor, " T"]:
    """What each piece (T, D, D) and the middle of its part's box enclose, signed.

    Of a closed part it adds up to its volume, in the plane to its area.
    """
    low, high = (
        x.new_full((int(label.max()) + 1, x.shape[2]), start).scatter_reduce(
            0,
            label.repeat_interleave(x.shape[1])[:, None].expand(-1, x.shape[2]),
            x.flatten(0, 1),
            how,
        )
        for start, how in ((torch.inf, "amin"), (-torch.inf, "amax"))
    )
    middle = ((low + high) / 2)[label]
    return ((x.mean(1) - middle) * area_vectors(x)).sum(1) / x.shape[2]


def inside_out(
    points: Float[Tensor, "P D"],
    nodes: Int[Tensor, "T D"],
    label: Int[Tensor, " T"],
    rim: Bool[Tensor, " n"],
) -> Bool[Tensor, " n"]:
    """Which parts to turn so that normals point out of what they enclose, or into a hollow.

    Arguments:
        points, nodes: pieces, those of a part wound alike.
        label: part of each piece.
        rim: which parts are open; they are judged by their own volume, if they go most of the way
            round one.
    """
    x, n = points[nodes], len(rim)
    area = area_vectors(x)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(n, *values.shape[1:]).index_add(0, label, values)

    volume, size = total(enclosed(x, label)), area.norm(dim=1)
    # A body without one of its sides has half of its surface there, at most.
    turn = rim & (total(area).norm(dim=1) < total(size) / 2) & (volume < 0)
    closed = (~rim).nonzero().squeeze(1)
    if not 1 < len(closed) <= PARTS:
        return turn | (~rim & (volume < 0))
    # Beside the largest piece of each: which others are about it there?
    order = size.argsort(descending=True)
    first = torch.full((n,), len(size)).scatter_reduce(
        0, label[order], torch.arange(len(order)), "amin"
    )
    piece = order[first[closed]]
    step = 1e-3 * size[piece] ** (1 / (x.shape[2] - 1))
    beside = x[piece].mean(1) + (step / size[piece])[:, None] * area[piece]
    surface = Surface(points, [Cells("triangle" if x.shape[2] == 3 else "line", nodes)])
    w = windings_by_part(surface, beside, label, n)[:, closed]
    turn[closed] = _nested(w.round() != 0, volume[closed] < 0)
    return turn


def _nested(about: Tensor, negative: Tensor) -> Tensor:
    """(n,) which closed parts to turn: what lies in the open, or in a hollow, is a body.

    What lies in a body may be a hollow or a body of its own: it is turned if what it lies in is.

    Arguments:
        about: (n, n) bool, whether part i lies in part j; of j = i it says nothing.
        negative: (n,) bool, whether its volume is.
    """
    about = about & ~torch.eye(len(about), dtype=torch.bool)
    depth, turn = about.sum(1), torch.zeros_like(negative)
    for i in depth.argsort(stable=True).tolist():
        around = about[i].nonzero().squeeze(1)
        level = int((~(negative ^ turn)[around]).sum()) - int((negative ^ turn)[around].sum())
        turn[i] = negative[i] if level <= 0 else turn[around[depth[around].argmax()]]
    return turn
