"""What has one right answer about a faulty mesh: `meshsim check --repair`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.renumber import on_mesh, renumbered
from meshsim.repair_steps import Work, count, drop, merge, orient
from meshsim.sample import Sample
from meshsim.series import Series


class Repaired(NamedTuple):
    """What came of a repair.

    Arguments:
        mesh: the mended mesh, the old one itself where nothing was to be done.
        done: what was done, one sentence each.
        left: what was found and left as it is, because it has no one right answer.
        points, cells: the old number of each new point and cell.
    """

    mesh: Mesh
    done: tuple[str, ...]
    left: tuple[str, ...]
    points: Int[Tensor, " n"]
    cells: Int[Tensor, " c"]


def repair(mesh: Mesh, frames: Iterable[Mesh] = ()) -> Repaired:
    """Merge, drop and turn what is double, empty, alone or the wrong way round.

    Points at one place become one, unless fields have several values there or a named boundary
    would be closed up; second cells of the same type and points are dropped, unless their fields
    differ, and so are simplices that list a point twice (others without size are needed by their
    neighbours: taking them out would leave hanging faces); cells that are only listed the wrong
    way round are turned; the cells of a surface are wound alike, with normals out of closed parts;
    points of no cell are dropped. Fields, boundaries and regions go along.

    Arguments:
        mesh: the mesh to mend; a repaired one is left as it is.
        frames: the same mesh with other fields on its points and cells, which count too.

    Raises:
        InputError: coordinates that are not finite; nothing would be left.

    >>> points = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [5.0, 5.0]]
    >>> found = repair(Mesh(points, {"triangle": [[0, 1, 2], [4, 3, 2]]}))
    >>> print(found.mesh, *found.done, sep=", ")  # doctest: +ELLIPSIS
    Mesh(4 points, 2-D, 2 triangle), 1 point merged with another at its place, 1 point of no cell...
    """
    if not bool(mesh.points.isfinite().all()):
        raise InputError("coordinates that are NaN or infinite cannot be repaired")
    work, every = Work(mesh), [mesh, *frames]
    merge(work, every)
    drop(work, every)
    if mesh.cell_dim > 1:
        orient(work)
    used = torch.zeros(mesh.n_points, dtype=torch.bool)
    for block in work.blocks:
        used[block.nodes] = True
    if not bool(used.any()):
        raise InputError("a repair would leave nothing: every cell is without size")
    own = work.first == torch.arange(mesh.n_points)
    alone = int((own & ~used).sum())
    if alone:
        work.done.append(f"{count(alone, 'point')} of no cell dropped")
    points = used.nonzero().squeeze(1)
    if not work.done:
        return Repaired(mesh, (), tuple(work.left), points, work.cells)
    place = torch.full((mesh.n_points,), -1)
    place[points] = torch.arange(len(points))
    blocks = [block for block in work.blocks if len(block)]
    new = renumbered(mesh, blocks, points, place[work.first], work.cells)
    return Repaired(new, tuple(work.done), tuple(work.left), points, work.cells)


def repaired(obj: Mesh | Series | Sample) -> tuple[Any, list[str], list[str]]:
    """`repair` of whatever a file holds: what it became, what was done, what was left.

    Raises:
        InputError: a mesh that moves.
    """
    if isinstance(obj, Mesh):
        found = repair(obj)
        return found.mesh, list(found.done), list(found.left)
    if isinstance(obj, Series):
        return _series(obj)
    branches, done, left = {}, [], []
    for name, branch in obj.branches.items():
        prefix = f"{name}: " if len(obj.branches) > 1 else ""
        branches[name], some, others = repaired(branch)
        done += [prefix + text for text in some]
        left += [prefix + text for text in others]
    return Sample(branches, obj.parameters, obj.name), done, left


def _series(series: Series) -> tuple[Series, list[str], list[str]]:
    if series.points is not None:
        raise InputError("a mesh that moves cannot be repaired (repair the mesh it starts from)")
    frames = [series.frame(t) for t in dict.fromkeys((0, len(series) - 1))]
    found = repair(series.mesh, frames)
    later, done, left = [], list(found.done), list(found.left)
    for segment in series.later:
        other, some, others = _series(segment)
        later.append(other)
        done, left = done + some, left + others
    return on_mesh(series, found.mesh, found.points, found.cells, tuple(later)), done, left
