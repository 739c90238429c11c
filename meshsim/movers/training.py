"""Training a mover on what it is for: the error of a finite element solution on the moved mesh."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from meshsim.check import InputError
from meshsim.movers.elements import error, solution
from meshsim.movers.fields import Gaussians, Radial
from meshsim.movers.learned import BULK, Density
from meshsim.movers.simplices import Array, Quadrature, Simplices
from meshsim.movers.transport import Transport

Say = Callable[[int, float], None]
Rule = Callable[[int], Quadrature]
THIN = 0.4


@dataclass(frozen=True)
class Sum:
    """A `Gaussians` field at points in torch, differentiable: u, Δu."""

    heights: Tensor
    centres: Tensor
    widths: Tensor

    @classmethod
    def of(cls, field: Gaussians) -> Sum:
        return cls(*(torch.from_numpy(v) for v in (field.heights, field.centres, field.widths)))

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t = (x[..., None, :] - self.centres) / self.widths
        return self.heights * torch.exp(-(t**2).sum(-1)), t

    def __call__(self, x: Tensor) -> Tensor:
        """(…,) u at points (…, D)."""
        return self._terms(x)[0].sum(-1)

    def laplacian(self, x: Tensor) -> Tensor:
        """(…,) Δu at points (…, D)."""
        u, t = self._terms(x)
        return (u * (4 * (t / self.widths) ** 2 - 2 / self.widths**2).sum(-1)).sum(-1)


@dataclass(frozen=True)
class Problem:
    """A mesh, a field and what follows: the monitor, and the error of −Δu + c u = f on a mesh."""

    transport: Transport
    exact: Sum | Radial
    monitor: Tensor
    reaction: float
    rule: Quadrature

    def error(self, x: Tensor) -> Tensor:
        """The L² error of the solution with the points at x (N, D), of positive cells."""
        grid, exact, c = self.transport.grid, self.exact, self.reaction
        held = torch.zeros(len(x), dtype=torch.bool)
        held[torch.from_numpy(grid.boundary).reshape(-1)] = True

        def source(p: Tensor) -> Tensor:
            return c * exact(p) - exact.laplacian(p)

        cells = self.transport.cells
        u = solution(x, cells, held, source, exact, c, self.rule)
        return error(x, cells, u, exact, self.rule)


def draw(rng: np.random.Generator, transports: Sequence[Transport], rule: Rule) -> Problem:
    """A random mesh of `transports`, a field in its box, and a monitor of it.

    The field is a sum of Gaussians, for `THIN` of the problems a front or a ring; the monitor
    1 + α |∇∇u|ᵖ / max, α from 2 to 50, p = 1 or 2; the equation Poisson's or with c = 1.
    """
    transport = transports[int(rng.integers(len(transports)))]
    points: Array = transport.grid.points
    if rng.random() < THIN:
        exact: Sum | Radial = (thin := Radial.draw_in(rng, points))
        squares = thin.squares(transport.points)
    else:
        field = Gaussians.draw_in(rng, points)
        exact = Sum.of(field)
        squares = torch.from_numpy((field.hessian(points) ** 2).sum((1, 2)))
    alpha = float(np.exp(rng.uniform(np.log(2.0), np.log(50.0))))
    power = int(rng.integers(1, 3)) / 2
    monitor = 1 + alpha * (squares / squares.max()) ** power
    reaction = float(rng.integers(0, 2))
    return Problem(transport, exact, monitor, reaction, rule(points.shape[1]))


def train(
    density: Density,
    grids: Sequence[Simplices],
    rule: Rule,
    minutes: float = 0.0,
    steps: int = 0,
    seed: int = 0,
    batch: int = 8,
    rate: float = 3e-3,
    say: Say = lambda step, loss: None,
) -> None:
    """Adam on the mean of the errors, each over that of the mesh at rest, at most 2.

    Arguments:
        density: changed in place.
        grids: meshes at rest to draw from.
        rule: of the errors, by the dimension.
        minutes, steps: when to end; the rate falls to zero as a cosine till then. One of them.
        say: called with the step and its loss.
    """
    transports = [Transport(grid, bulk=BULK[grid.dim]) for grid in grids]

    def loss_of(rng: np.random.Generator) -> Tensor | None:
        losses = []
        for _ in range(batch):
            problem = draw(rng, transports, rule)
            transport = problem.transport
            moved = transport.drift(*density(problem.monitor, transport))
            if transport.guard.tangled(moved.detach().numpy()) > 0:
                continue  # the safeguard is for use; here it would hide the gradient
            before = problem.error(transport.points)
            losses.append((problem.error(moved) / before).clamp(max=2.0))
        return torch.stack(losses).mean() if losses else None

    fit(density, loss_of, minutes, steps, seed, rate, say)


def fit(
    net: nn.Module,
    loss_of: Callable[[np.random.Generator], Tensor | None],
    minutes: float,
    steps: int,
    seed: int,
    rate: float,
    say: Say,
) -> None:
    """Adam for so long or so many steps, the rate falling to zero as a cosine.

    Arguments:
        net: changed in place.
        loss_of: a loss on fresh problems; None for a step without one.
        minutes, steps: when to end; one of them.
        seed: of the problems.
        rate: to begin with.
        say: called with the step and its loss.

    Raises:
        InputError: neither minutes nor steps.
    """
    if not (minutes > 0 or steps > 0):
        raise InputError(f"expected minutes or steps above 0, got {minutes:g} and {steps}")
    rng, began = np.random.default_rng(seed), time.monotonic()
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    step, done = 0, 0.0
    while done < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done))
        loss = loss_of(rng)
        if loss is not None:
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            say(step, float(loss.detach()))
        step += 1
        done = (time.monotonic() - began) / (60 * minutes) if minutes else step / steps
