"""What movers are judged on in time: flows whose mesh is moved anew for every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from meshsim.movers import FieldMonitor, Simplices
from meshsim.movers.monitor import at_points
from meshsim.movers.simplices import Array
from meshsim.solvers.convection import Frame, Move, Velocity, march
from meshsim.solvers.domains import SQUARE, polygon, structured
from meshsim.solvers.elliptic import l2_error

Start = Callable[[Array], Array]
JUDGED = 5  # frames, beside the first
FINE = 100  # cells a side of the reference


@dataclass(frozen=True)
class Flow:
    """u_t + c·∇u = κ Δu on a mesh, and a solution to judge by.

    Attributes:
        exact: (n, …) at points (n, D), of the number of a frame.
        expression, rounds: of the monitor, the field being `u`, the speed if that is a vector.
    """

    name: str
    grid: Simplices
    start: Start
    velocity: Velocity
    dt: float
    steps: int
    diffusion: float
    exact: Callable[[int], Start]
    expression: str
    rounds: float

    def monitor(self, points: Array, values: Array) -> FieldMonitor:
        """The monitor for the values at points, on the mesh that they are on."""
        u = values if values.ndim == 1 else np.linalg.norm(values, axis=1)
        now = Simplices(points, self.grid.cells)
        return FieldMonitor(now, self.expression, {"u": u}, rounds=self.rounds)

    def run(self, move: Move | None = None) -> list[Frame]:
        frames = march(
            self.grid, self.start, self.velocity, self.dt, self.steps, self.diffusion, None, move
        )
        return list(frames)

    def error(self, frames: list[Frame]) -> float:
        """The root mean square over frames of the L² error."""
        squares = []
        for n in range(0, self.steps + 1, self.steps // JUDGED):
            frame, exact = frames[n], self.exact(n)
            grid = Simplices(frame.points, self.grid.cells)
            u = frame.values.reshape(len(frame.points), -1)
            parts = [
                l2_error(grid, u[:, k], partial(_component, exact, k), 4) for k in range(u.shape[1])
            ]
            squares.append(np.square(parts).sum())
        return float(np.sqrt(np.mean(squares)))


def _component(field: Start, k: int, x: Array) -> Array:
    out: Array = field(x).reshape(len(x), -1)[:, k]
    return out


def swirl(
    centre: tuple[float, float], width: float, size: float, end: float = 0.5, steps: int = 50
) -> Flow:
    """A ring in a vortex that turns back half way (UM2N's swirl): exact by its characteristics.

    u₀ = exp(−(|x − c| − 0.2)² / 2w²), velocity ±1.5 (sin² πx sin 2πy, −sin² πy sin 2πx).
    """

    def turning(x: Array) -> Array:
        s, double = np.sin(np.pi * x) ** 2, np.sin(2 * np.pi * x)
        return 1.5 * np.stack([s[:, 0] * double[:, 1], -s[:, 1] * double[:, 0]], 1)

    def start(x: Array) -> Array:
        away = np.linalg.norm(x - np.asarray(centre), axis=1) - 0.2
        out: Array = np.exp(-(away**2) / (2 * width**2))
        return out

    def exact(n: int) -> Start:
        time = min(n, steps - n) * end / steps

        def field(x: Array) -> Array:
            h = -time / 32
            for _ in range(32):  # Runge and Kutta's fourth order, back to the start
                a = turning(x)
                b = turning(x + h / 2 * a)
                c = turning(x + h / 2 * b)
                x = x + h / 6 * (a + 2 * b + 2 * c + turning(x + h * c))
            return start(x)

        return field

    def velocity(x: Array, u: Array, t: float) -> Array:
        return turning(x) if t < end / 2 else -turning(x)

    name = f"ring of {width:g} at {centre[0]:g}, cells of {size:g}"
    expression = "1 + max(5*H2(u), 10*G2(u))"  # UM2N's, smoothed ten rounds
    return Flow(
        name, polygon(SQUARE, size), start, velocity, end / steps, steps, 0.0, exact, expression, 10
    )


def burgers(seed: int, size: float, diffusion: float = 5e-3, steps: int = 30) -> Flow:
    """u_t + u·∇u = ν Δu of a vector that begins as a Gaussian, dt 1/30, to t = 1.

    Judged by a mesh of 100² squares, with the same steps; ν is five times UM2N's, so that the
    reference resolves its fronts.
    """
    rng = np.random.default_rng(seed)
    centre, angle = rng.uniform(0.3, 0.45, 2), rng.uniform(0.15, 0.35) * np.pi
    width = rng.uniform(0.12, 0.18)
    way = 1.2 * np.array([np.cos(angle), np.sin(angle)])

    def start(x: Array) -> Array:
        bump = np.exp(-((x - centre) ** 2).sum(1) / width**2) * 16 * (x * (1 - x)).prod(1)
        out: Array = bump[:, None] * way
        return out

    def velocity(x: Array, u: Array, t: float) -> Array:
        return u

    dt = 1 / 30

    @cache
    def reference() -> tuple[Simplices, list[Frame]]:
        fine = structured(FINE)
        return fine, list(march(fine, start, velocity, dt, steps, diffusion))

    def exact(n: int) -> Start:
        fine, frames = reference()
        return lambda x: at_points(fine, frames[n].values, x)

    return Flow(
        f"Burgers {seed}",
        polygon(SQUARE, size),
        start,
        velocity,
        dt,
        steps,
        diffusion,
        exact,
        "1 + 5*H(u)",
        1,
    )


def swirls(share: float) -> list[Flow]:
    """UM2N's two centres and two cell sizes; its ring of 0.05/6, and one that cells resolve."""
    out = [swirl((0.3, 0.3), 0.03, 0.05), swirl((0.25, 0.25), 0.05 / 6, 0.028)]
    out += [swirl((0.25, 0.25), 0.03, 0.05), swirl((0.3, 0.3), 0.03, 0.028)]
    return out[: max(int(4 * share), 2)]


FLOWS: dict[str, Callable[[float], list[Flow]]] = {
    "Burgers": lambda share: [burgers(s, 0.05) for s in range(max(int(6 * share), 2))],
    "swirl": swirls,
}
