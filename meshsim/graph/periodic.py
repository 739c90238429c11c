"""Joining the two sides of a periodic mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from meshsim.check import InputError, check_known
from meshsim.mesh import Mesh


@dataclass(frozen=True)
class Periodic:
    """Two boundaries that are one: shifting the first gives the second.

    Arguments:
        first, second: names of boundaries.
        shift: from the first to the second; None for the difference of their centres.
    """

    first: str
    second: str
    shift: tuple[float, ...] | None = None


def as_periodic(pairs: Sequence[Periodic | Sequence[str]] | None) -> list[Periodic]:
    """Pairs of names as `Periodic`."""
    out = []
    for pair in pairs or ():
        if not isinstance(pair, Periodic):
            if isinstance(pair, str) or len(pair) != 2:
                raise InputError(f"`periodic`: expected pairs of boundaries, got {pair!r}")
            pair = Periodic(pair[0], pair[1])
        out.append(pair)
    return out


def match(
    a: Float[Tensor, "n D"], b: Float[Tensor, "m D"], size: float, pair: Periodic, what: str
) -> tuple[Int[Tensor, " n"], Float[Tensor, " D"]]:
    """For each place of `a`, shifted, the same place in `b`.

    Arguments:
        a, b: (n, D), (m, D) places on the two boundaries.
        size: of the mesh; places within 1e-5 of it are the same.
        pair: the boundaries, for their shift and for messages.
        what: "points" or "faces".

    Returns:
        (n,) rows of `b`; (D,) the shift.

    Raises:
        InputError: the sides differ in number or place.
    """
    names = f"periodic boundaries {pair.first!r} and {pair.second!r}"
    if len(a) != len(b):
        raise InputError(f"{names}: expected as many {what} on both, got {len(a)} and {len(b)}")
    if pair.shift is None:
        shift = b.mean(0) - a.mean(0)
    else:
        shift = a.new_tensor(pair.shift)
    if shift.shape != a.shape[1:]:
        raise InputError(f"{names}: expected a shift of {a.shape[1]} numbers, got {pair.shift}")
    distance, row = cKDTree(b.cpu().numpy()).query((a + shift).cpu().numpy())
    far = torch.from_numpy(distance > 1e-5 * size)
    found = torch.from_numpy(row).to(torch.int64)
    if far.any() or len(found.unique()) != len(found):
        bad = int(far.nonzero()[0]) if far.any() else 0
        place = ", ".join(f"{v:g}" for v in a[bad].tolist())
        raise InputError(
            f"{names}: {int(far.sum()) or 'some'} {what} have no partner after the shift"
            f" ({', '.join(f'{v:g}' for v in shift.tolist())}), the first at ({place})"
        )
    return found.to(a.device), shift


def join_points(mesh: Mesh, pairs: Sequence[Periodic]) -> tuple[Int[Tensor, " P"], Tensor]:
    """Nodes for the points of a mesh, where periodic partners share one.

    Partners of partners share it too: the four corners of a square periodic both ways are one
    node.

    Returns:
        point_node (P,): the node of each point; node_point (N,): the first point of each node,
        rising.
    """
    n = mesh.n_points
    a, b = [], []
    for pair in pairs:
        first, second = (mesh.boundary_points(name) for name in (pair.first, pair.second))
        row, _ = match(mesh.points[first], mesh.points[second], extent(mesh), pair, "points")
        a.append(first)
        b.append(second[row])
    rows, columns = torch.cat(a).cpu().numpy(), torch.cat(b).cpu().numpy()
    links = coo_array((torch.ones(len(rows)).numpy(), (rows, columns)), shape=(n, n))
    label = torch.from_numpy(connected_components(links, directed=False)[1]).to(torch.int64)
    first_point = torch.full((int(label.max()) + 1,), n).scatter_reduce_(
        0, label, torch.arange(n), "amin"
    )
    node_point, order = first_point.sort()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return rank[label].to(mesh.points.device), node_point.to(mesh.points.device)


def join_faces(mesh: Mesh, pair: Periodic) -> tuple[Tensor, Tensor, Tensor]:
    """The faces of two periodic boundaries: (n,) of the first, (n,) their partners, (D,) shift."""
    check_known(pair.first, mesh.boundaries, "boundary")
    check_known(pair.second, mesh.boundaries, "boundary")
    first, second = mesh.boundaries[pair.first].faces, mesh.boundaries[pair.second].faces
    centre = mesh.faces.centre
    row, shift = match(centre[first], centre[second], extent(mesh), pair, "faces")
    return first, second[row], shift


def extent(mesh: Mesh) -> float:
    """The diagonal of the mesh's bounding box."""
    return float((mesh.points.amax(0) - mesh.points.amin(0)).norm())
