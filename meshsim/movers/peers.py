"""Published movers in use: UM2N, its label-free successor, a data-free one with our own basis.

They are trained by `datasets/mesh_movers/train.py`, for the table of tests/benchmarks/bm_movers.py;
none of them is kept from tangling a mesh, and none ships.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.check import InputError, WorkError
from meshsim.movers.dmm import RASTER, DataFreeMover
from meshsim.movers.fields import Gaussians
from meshsim.movers.monge_ampere import MongeAmpere, Moved
from meshsim.movers.simplices import Array, Simplices
from meshsim.movers.training import Say, fit
from meshsim.movers.transport import as_density
from meshsim.movers.um2n import (
    UM2N,
    Neighbours,
    area_loss,
    chamfer_loss,
    coordinate_loss,
    uniformity_loss,
)
from meshsim.ops import interpolate, locate


class Box:
    """Where a mesh lies in the box [0, 1]^D, its longest side being 1."""

    def __init__(self, points: Array):
        self.low = points.min(0)
        self.size = float(np.ptp(points, axis=0).max())

    def within(self, points: Array) -> Tensor:
        return torch.from_numpy((points - self.low) / self.size)

    def back(self, places: Tensor) -> Array:
        out: Array = self.low + self.size * places.detach().double().numpy()
        return out


class UM2NMover:
    """Moves points by a trained `UM2N`, whatever it was trained with.

    >>> from meshsim.solvers.domains import structured
    >>> mover = UM2NMover(UM2N(2, widths=(16, 8)))
    >>> mover.move(structured(4), lambda x: 1 + x[:, 0]).points.shape
    (25, 2)
    """

    def __init__(self, net: UM2N):
        self.net = net.eval()
        self._prepared: tuple[Simplices, Neighbours] | None = None

    def prepare(self, grid: Simplices) -> Neighbours:
        if self._prepared is None or self._prepared[0] is not grid:
            self._prepared = (grid, Neighbours.of(grid))
        return self._prepared[1]

    def move(self, grid: Simplices, monitor: Any) -> Moved:
        """As for `LearnedMover.move`; says which points the mesh has if it is tangled then.

        Raises:
            InputError: the network is for another number of dimensions.
        """
        _check_dim(self.net.dim, grid)
        m = as_density(monitor, grid)
        box = Box(grid.points)
        with torch.no_grad():
            y = self.net(box.within(grid.points).float(), m.float(), self.prepare(grid))
        return _moved(grid, box.back(y))


class DataFree:
    """Moves points of a box by a trained `DataFreeMover`.

    >>> from meshsim.solvers.domains import structured
    >>> mover = DataFree(DataFreeMover(2, width=16))
    >>> mover.move(structured(4), lambda x: 1 + x[:, 0]).points.shape
    (25, 2)
    """

    def __init__(self, net: DataFreeMover):
        self.net = net.eval()

    def move(self, grid: Simplices, monitor: Any) -> Moved:
        """As for `LearnedMover.move`; the mesh must fill the box that it lies in.

        Raises:
            InputError: it does not, or has another number of dimensions than the network.
        """
        _check_dim(self.net.dim, grid)
        box = Box(grid.points)
        unit = box.within(grid.points)
        if abs(float(np.abs(grid.signed(unit.numpy())).sum()) - 1) > 1e-6:
            raise InputError("the data-free mover moves meshes of a whole square or cube")
        raster = rastered(grid, as_density(monitor, grid), unit)
        code = self.net.encode(raster.float()[None, None])
        y = self.net.places(code, unit.float()).double()
        # a border that the potential leaves by a little is put back
        y = torch.where((unit == 0) | (unit == 1), unit, y)
        return _moved(grid, box.back(y))


def _check_dim(dim: int, grid: Simplices) -> None:
    if dim != grid.dim:
        raise InputError(f"expected a mesh in {dim}-D, got one in {grid.dim}-D")


def _moved(grid: Simplices, points: Array) -> Moved:
    bad = bool((grid.signed(points) <= 0).any())
    return Moved(grid.points if bad else points, not bad, tangled=points if bad else None)


def rastered(grid: Simplices, monitor: Tensor, unit: Tensor) -> Tensor:
    """The monitor's values (N,) on the raster of the box."""
    at = torch.linspace(0, 1, RASTER, dtype=torch.float64)
    places = torch.cartesian_prod(*[at] * grid.dim)
    cells = torch.from_numpy(grid.cells)
    ids, weights = locate(unit, cells, places, 1e-6)
    return interpolate(monitor, cells, ids.clamp(min=0), weights).reshape((RASTER,) * grid.dim)


def monitor_of(field: Gaussians, grid: Simplices, alpha: float = 5.0) -> Callable[[Array], Array]:
    """UM2N's monitor, 1 + α |∇∇u|² / max, as a function of place."""
    most = float((field.hessian(grid.points) ** 2).sum((1, 2)).max())

    def monitor(x: Array) -> Array:
        out: Array = 1 + alpha * np.minimum((field.hessian(x) ** 2).sum((1, 2)) / most, 1.5)
        return out

    return monitor


def labels(
    grids: Sequence[Simplices], count: int, seed: int, most: int = 100
) -> list[tuple[Simplices, Array, Array]]:
    """(mesh, monitor at its points, points moved by the classical solver) of random fields.

    Raises:
        WorkError: it converged on fewer than `count` of ten times as many; `most`: iterations.
    """
    rng = np.random.default_rng(seed)
    out: list[tuple[Simplices, Array, Array]] = []
    for tried in range(10 * count):
        grid = grids[tried % len(grids)]
        monitor = monitor_of(Gaussians.draw_in(rng, grid.points), grid)
        found = MongeAmpere(grid, "quasi-newton", rtol=1e-3, most=most).move(monitor)
        if found.converged:
            out.append((grid, monitor(grid.points), found.points))
        if len(out) == count:
            return out
    raise WorkError(f"the classical solver converged on {len(out)} of {10 * count} meshes only")


def train_um2n(
    net: UM2N,
    grids: Sequence[Simplices],
    minutes: float = 0.0,
    steps: int = 0,
    seed: int = 0,
    labelled: int = 100,
    rate: float = 1e-3,
    say: Say = lambda step, loss: None,
) -> None:
    """UM2N's own losses, 100 · areas + 10 · coordinates + Chamfer, on classical meshes.

    The labels are made first, in time of their own.
    """
    known = {id(grid): Neighbours.of(grid) for grid in grids}
    cases = labels(grids, labelled, 10_000 + seed)

    def loss_of(rng: np.random.Generator) -> Tensor:
        grid, monitor, goal = cases[int(rng.integers(len(cases)))]
        near = known[id(grid)]
        box = Box(grid.points)
        x = net(box.within(grid.points).float(), torch.from_numpy(monitor).float(), near).double()
        target = box.within(goal)
        areas = area_loss(x, target, torch.from_numpy(grid.cells))
        return 100 * areas + 10 * coordinate_loss(x, target) + chamfer_loss(x, target)

    fit(net, loss_of, minutes, steps, seed, rate, say)


def train_uniform(
    net: UM2N,
    grids: Sequence[Simplices],
    minutes: float = 0.0,
    steps: int = 0,
    seed: int = 0,
    rate: float = 1e-3,
    say: Say = lambda step, loss: None,
) -> None:
    """The M-uniform loss on fresh fields; no labels."""
    known = {id(grid): Neighbours.of(grid) for grid in grids}

    def loss_of(rng: np.random.Generator) -> Tensor:
        grid = grids[int(rng.integers(len(grids)))]
        near = known[id(grid)]
        m = torch.from_numpy(monitor_of(Gaussians.draw_in(rng, grid.points), grid)(grid.points))
        rest = Box(grid.points).within(grid.points)
        x = net(rest.float(), m.float(), near).double()
        return uniformity_loss(x, rest, m, torch.from_numpy(grid.cells))

    fit(net, loss_of, minutes, steps, seed, rate, say)


def train_data_free(
    net: DataFreeMover,
    minutes: float = 0.0,
    steps: int = 0,
    seed: int = 0,
    rate: float = 2e-3,
    say: Say = lambda step, loss: None,
) -> None:
    """The residual of the Monge–Ampère equation on the unit box, on fresh fields, 32 a step."""
    unit = torch.linspace(0, 1, RASTER)
    raster = torch.cartesian_prod(*[unit] * net.dim)
    fields, places = 32, 48

    def loss_of(rng: np.random.Generator) -> Tensor:
        drawn = Batch.draw(rng, fields, net.dim)
        values = drawn.squares(raster.expand(fields, -1, -1))
        most = values.amax(1, keepdim=True)

        def monitor(x: Tensor) -> Tensor:
            squares = drawn.squares(x.reshape(fields, -1, net.dim))
            return (1 + 5 * (squares / most).clamp(max=1.5)).reshape(-1)

        m = (1 + 5 * values / most).reshape((fields, 1) + (RASTER,) * net.dim)
        inside = torch.from_numpy(rng.random((fields * places, net.dim))).float()
        code = net.encode(m)
        rows = code.repeat_interleave(places, 0)
        return net.residuals(rows, inside, monitor, fields).total()

    fit(net, loss_of, minutes, steps, seed, rate, say)


class Batch:
    """Several fields at once, each of as many Gaussians, some of no height."""

    def __init__(self, heights: Tensor, centres: Tensor, widths: Tensor):
        self.heights, self.centres, self.widths = heights, centres, widths

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, dim: int) -> Batch:
        out = cls(
            torch.zeros(count, 6), torch.zeros(count, 6, dim), torch.ones(count, 6, dim)
        )  # of Gaussians there are 1 to 6
        for b in range(count):
            field = Gaussians.draw(rng, dim)
            k = len(field.heights)
            out.heights[b, :k] = torch.from_numpy(field.heights)
            out.centres[b, :k] = torch.from_numpy(field.centres)
            out.widths[b, :k] = torch.from_numpy(field.widths)
        return out

    def squares(self, x: Float[Tensor, "B n D"]) -> Float[Tensor, "B n"]:
        """|∇∇u|² at the points of each field, differentiable."""
        widths = self.widths[:, None]
        t = (x[:, :, None] - self.centres[:, None]) / widths  # (B, n, G, D)
        u = self.heights[:, None] * torch.exp(-(t**2).sum(3))
        slope = -2 * t / widths
        both = slope[..., :, None] * slope[..., None, :]
        bend = torch.diag_embed(-2 / widths.expand(t.shape) ** 2)
        return ((u[..., None, None] * (both + bend)).sum(2) ** 2).sum((2, 3))
