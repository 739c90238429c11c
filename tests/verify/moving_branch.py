"""Does movement pay? MM-PDE on 2-D Burgers beside itself without movement.

    python tests/verify/moving_branch.py [--minutes 3 | --steps N] [--seeds 0 1 2]

Flows of u_t + (u·∇)u = ν ∇²u on the unit square, u = 0 on its sides, from random smooth fields of
largest speed 1: fourth-order differences on a fine grid, every fifth point of which is the coarse
mesh, whose fronts are one or two cells wide. Every fifth flow is held out. Meshes are moved by the
shipped `LearnedMover` for 1 + α |∇u| / max, from u_t alone. Variants, trained alike, one thread:

- moving: RC + G₁ + I₂ G₂ I₁ on the moved mesh (MM-PDE);
- control: the same parameters and path, the points at rest for the moved ones;
- G₁ + RC: no second branch, G₁ as much wider as gives as many parameters;
- G₁: of the width that the others have, no residual path: what the paper compares to.

Prints mean ± standard deviation over seeds of one-step and rollout errors on held-out flows, and
says whether movement pays: whether each seed of it beats each of the control. Asserts only that
everything beats persistence in one step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from meshsim.models import MovingMeshNet
from meshsim.models.moving_mesh import MovedMesh, join, moved_mesh
from meshsim.movers import LearnedMover
from meshsim.movers.recovery import gradient
from meshsim.movers.simplices import Array, Indices
from meshsim.movers.training import fit
from meshsim.movers.um2n import Neighbours
from meshsim.ops import interpolate, locate
from meshsim.solvers.domains import structured

FINE, EVERY = 120, 5
VISCOSITY, STEP, SUBSTEPS, FRAMES = 0.005, 0.05, 25, 21
ALPHA = 5.0
WIDTH, DEPTH, BATCH, RATE, NOISE = 16, 3, 2, 5e-3, 0.003


def burgers(start: Array, substeps: int = SUBSTEPS, frames: int = FRAMES) -> Array:
    """(T, 2, n + 1, n + 1) frames from the first (2, n + 1, n + 1), axes (component, x, y).

    Central differences of fourth order, fields continued oddly beyond the sides; the third-order
    Runge–Kutta method of Shu and Osher (1988).
    """
    n = start.shape[1] - 1
    first, second = n / 12, VISCOSITY * n * n / 12

    def rate(u: Array) -> Array:
        wide = np.pad(u, ((0, 0), (2, 2), (2, 2)))
        wide[:, :2], wide[:, -2:] = -wide[:, 4:2:-1], -wide[:, -4:-6:-1]
        wide[:, :, :2], wide[:, :, -2:] = -wide[:, :, 4:2:-1], -wide[:, :, -4:-6:-1]
        along = [[wide[:, i : i + n + 1, 2:-2] for i in range(5)]]
        along += [[wide[:, 2:-2, i : i + n + 1] for i in range(5)]]
        out = np.zeros_like(u)
        for speed, (a, b, c, d, e) in zip(u, along, strict=True):
            out -= speed * (first * (8 * (d - b) - (e - a)))
            out += second * (16 * (b + d) - (a + e) - 30 * c)
        out[:, [0, -1]] = out[:, :, [0, -1]] = 0.0
        return out

    h, u, out = STEP / substeps, start, [start]
    for _ in range(frames - 1):
        for _ in range(substeps):
            a = u + h * rate(u)
            b = 0.75 * u + 0.25 * (a + h * rate(a))
            u = u / 3 + 2 / 3 * (b + h * rate(b))
        out.append(u)
    return np.stack(out)


def start(rng: np.random.Generator, n: int) -> Array:
    """(2, n + 1, n + 1) sums of sines of up to three half waves, of largest speed 1."""
    at = np.sin(np.pi * np.arange(1, 4)[:, None] * np.linspace(0, 1, n + 1))  # (3, n + 1)
    heights = rng.standard_normal((2, 3, 3)) / np.hypot(*np.mgrid[1:4, 1:4])
    u = np.einsum("ckl,kx,ly->cxy", heights, at, at)
    u[:, [0, -1]] = u[:, :, [0, -1]] = 0.0
    out: Array = u / np.sqrt((u**2).sum(0)).max()
    return out


class Case:
    """The coarse mesh, and what moves it."""

    def __init__(self) -> None:
        n = FINE // EVERY
        self.grid = structured(n)
        near = Neighbours.of(self.grid)
        self.edges = torch.stack([near.sender, near.receiver])
        self.cells = torch.from_numpy(self.grid.cells)
        self.points = torch.from_numpy(self.grid.points).float()
        self.length = 1 / n
        self.inside = (~near.boundary)[:, None].float()
        self.ids = np.rint(self.grid.points * n).astype(int) * EVERY
        self.mover = LearnedMover()
        self.mover.prepare(self.grid)
        self.still = self.tables(self.points)

    def coarse(self, fine: Array) -> Tensor:
        """(T, N, 2) of (T, 2, n + 1, n + 1)."""
        x, y = self.ids.T
        return torch.from_numpy(fine[:, :, x, y].transpose(0, 2, 1).copy()).float()

    def places(self, u: Tensor) -> Array:
        """(N, 2) where the points go for u (N, 2)."""
        slopes = [gradient(self.grid, c) for c in u.double().numpy().T]
        size = np.sqrt(sum((s**2).sum(1) for s in slopes))
        largest = float(size.max())
        monitor = 1 + ALPHA * size / largest if largest > 0 else np.ones_like(size)
        return self.mover.move(self.grid, monitor).points

    def tables(self, places: Tensor) -> MovedMesh:
        return moved_mesh(self.points, places, self.cells, self.edges)

    def moved(self, u: Tensor) -> MovedMesh:
        """The mesh moved for u (N, 2)."""
        return self.tables(torch.from_numpy(self.places(u)).float())


@dataclass
class Flows:
    """Frames (S, T, N, 2) over their scale, and the mesh moved for each but the last of a flow."""

    u: Tensor
    meshes: list[list[MovedMesh]]


@dataclass
class Run:
    """What one training gave."""

    parameters: int
    steps: int
    training: float
    one: float
    rollout: float
    rolling: float
    share: float = 0.0


@dataclass
class Variant:
    """A model to be made, and whether its mesh moves."""

    width: int
    moving: bool = False
    branch: bool = True
    residual: bool = True
    runs: list[Run] = field(default_factory=list)

    def make(self, length: float, difference: float = 1.0) -> MovingMeshNet:
        return MovingMeshNet(
            2,
            width=self.width,
            depth=DEPTH,
            length=length,
            difference=difference,
            branch=self.branch,
            residual=self.residual,
        )


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def variants(length: float) -> dict[str, Variant]:
    out = {"moving": Variant(WIDTH, moving=True), "control": Variant(WIDTH)}
    wanted = parameters(out["control"].make(length))
    wide = [Variant(width, branch=False) for width in range(WIDTH, 2 * WIDTH)]
    out["G₁ + RC"] = min(wide, key=lambda v: abs(parameters(v.make(length)) - wanted))
    out["G₁"] = Variant(WIDTH, branch=False, residual=False)
    return out


class Batches:
    """Steps of flows as one mesh, their edges always the same tensor."""

    def __init__(self, case: Case, variant: Variant):
        self.case, self.variant = case, variant
        self.still: dict[int, MovedMesh] = {}

    def __call__(self, flows: Flows, picks: Sequence[tuple[int, int]]) -> MovedMesh:
        n = len(picks)
        if n not in self.still:
            self.still[n] = join([self.case.still] * n)
        if not self.variant.moving:
            return self.still[n]
        moved = join([flows.meshes[s][t] for s, t in picks])
        return moved._replace(edge_index=self.still[n].edge_index)


def train(
    case: Case, variant: Variant, flows: Flows, seed: int, minutes: float, steps: int
) -> tuple[MovingMeshNet, int, float]:
    """The trained network, the steps that took, and seconds for each."""
    torch.manual_seed(seed)
    sender, receiver = case.edges
    difference = float((flows.u[:, :, sender] - flows.u[:, :, receiver]).abs().mean())
    net, batches = variant.make(case.length, difference), Batches(case, variant)
    generator = torch.Generator().manual_seed(seed)
    inside = case.inside.repeat(BATCH, 1)
    taken = [0]

    def loss(rng: np.random.Generator) -> Tensor:
        s = rng.integers(len(flows.u), size=BATCH)
        t = rng.integers(flows.u.shape[1] - 1, size=BATCH)
        u, then = flows.u[s, t].flatten(0, 1), flows.u[s, t + 1].flatten(0, 1)
        noise = NOISE * torch.randn(u.shape, generator=generator) * inside
        found = net(u + noise, batches(flows, list(zip(s, t, strict=True)))) * inside
        return (found - then).square().mean()

    def say(step: int, value: float) -> None:
        taken[0] = step + 1

    began = time.monotonic()
    fit(net, loss, minutes, steps, seed, RATE, say)
    return net, taken[0], (time.monotonic() - began) / taken[0]


@torch.no_grad()
def judge(
    case: Case, variant: Variant, net: MovingMeshNet, flows: Flows, scale: float
) -> tuple[float, float, float, float]:
    """One-step and rollout MSE of u itself, seconds a step of a rollout, the branch's share.

    The share is the root mean square of what the branch adds over that of u_{t+1} − u_t.
    """
    batches, (n, times) = Batches(case, variant), flows.u.shape[:2]
    inside, one, added = case.inside.repeat(times - 1, 1), 0.0, 0.0
    for s in range(n):
        mesh = batches(flows, [(s, t) for t in range(times - 1)])
        now = flows.u[s, :-1].flatten(0, 1)
        found = net(now, mesh) * inside
        one += float((found - flows.u[s, 1:].flatten(0, 1)).square().mean()) / n
        branch = net.branch(now, mesh)
        added += float(branch.square().mean()) / n if branch is not None else 0.0
    change = float((flows.u[:, 1:] - flows.u[:, :-1]).square().mean())
    began, off = time.monotonic(), 0.0
    for flow in flows.u:
        u = flow[0]
        for then in flow[1:]:
            u = net(u, case.moved(scale * u) if variant.moving else case.still) * case.inside
            off += float((u - then).square().mean()) / (n * (times - 1))
    took = (time.monotonic() - began) / (n * (times - 1))
    return scale**2 * one, scale**2 * off, took, (added / change) ** 0.5


def refinement(rng: np.random.Generator) -> float:
    """The relative RMS change at the coarse points, half a flow long, on a grid twice as fine."""
    first = start(rng, 2 * FINE)
    coarse = burgers(first[:, ::2, ::2], SUBSTEPS, 11)[:, :, ::EVERY, ::EVERY]
    fine = burgers(first, 4 * SUBSTEPS, 11)[:, :, :: 2 * EVERY, :: 2 * EVERY]
    return float(np.sqrt(((coarse - fine) ** 2).mean() / (fine**2).mean()))


def represented(case: Case, fine: Array, places: Array) -> float:
    """The mean square error, over fine points, of a frame's linear interpolation on the mesh."""
    grid = structured(FINE)
    x, y = np.rint(grid.points * FINE).astype(int).T
    values = torch.from_numpy(fine[:, x, y].T.copy())

    def carried(u: Tensor, points: Array, cells: Indices, to: Array) -> Tensor:
        corners = torch.from_numpy(cells)
        found = locate(torch.from_numpy(points), corners, torch.from_numpy(to), 1e-6)
        return interpolate(u, corners, *found)

    there = carried(values, grid.points, grid.cells, places)
    back = carried(there, places, case.grid.cells, grid.points)
    return float((back - values).square().mean())


def report(table: dict[str, Variant], held: tuple[float, float]) -> None:
    print(
        "| variant | parameters | steps | ms a training step | one-step MSE | rollout MSE |", end=""
    )
    print(" ms a step | branch's share |\n|---|---|---|---|---|---|---|---|")
    for name, variant in table.items():
        runs = variant.runs
        row = [name, str(runs[0].parameters), f"{np.mean([r.steps for r in runs]):.0f}"]
        row += [f"{1e3 * np.mean([r.training for r in runs]):.0f}"]
        for values in ([r.one for r in runs], [r.rollout for r in runs]):
            spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
            row += [f"{np.mean(values):.2e} ± {spread:.1e}"]
        row += [f"{1e3 * np.mean([r.rolling for r in runs]):.1f}"]
        row += [f"{np.mean([r.share for r in runs]):.2f}" if variant.branch else "–"]
        print("| " + " | ".join(row) + " |")
    print(f"| persistence | 0 | – | – | {held[0]:.2e} | {held[1]:.2e} | – | – |")


def verdict(table: dict[str, Variant], other: str, key: Callable[[Run], float]) -> str:
    """Whether each seed of the moving variant lies below each of another's, or above."""
    moving, others = ([key(r) for r in table[name].runs] for name in ("moving", other))
    if len(moving) < 2:
        found = "is not judged by one seed"
    elif max(moving) < min(others):
        found = "pays beyond the seeds' spread"
    elif min(moving) > max(others):
        found = "costs beyond the seeds' spread"
    else:
        found = "makes no difference beyond the seeds' spread"
    return f"{found} (ratio of means {np.mean(moving) / np.mean(others):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="of each training")
    parser.add_argument("--steps", type=int, default=0, help="of each training, for the minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--flows", type=int, default=40)
    given = parser.parse_args()
    minutes = 0.0 if given.steps else given.minutes
    torch.set_num_threads(1)
    rng, began = np.random.default_rng(0), time.monotonic()
    case = Case()
    print(f"twice as fine changes a flow by {refinement(rng):.1e} of its root mean square")
    fine = [burgers(start(rng, FINE)) for _ in range(given.flows)]
    coarse = [case.coarse(f) for f in fine]
    moved = [[case.places(u) for u in flow[:-1]] for flow in coarse]
    far = np.concatenate([np.linalg.norm(p - case.grid.points, axis=1) for f in moved for p in f])
    width, sample = case.length, list(range(4, given.flows, 5))
    still = np.mean([represented(case, fine[s][10], case.grid.points) for s in sample])
    there = np.mean([represented(case, fine[s][10], moved[s][10]) for s in sample])
    fronts = [
        np.ptp(fine[s][10]) / max(float(np.abs(np.diff(fine[s][10], axis=a)).max()) for a in (1, 2))
        for s in sample
    ]
    print(f"fronts, range over steepest slope, are {np.mean(fronts) / EVERY:.1f} cells wide")
    print(f"points go {far.mean() / width:.2f} cells on average, {far.max() / width:.2f} at most")
    print(
        f"the middle frame, linear on the mesh: MSE {still:.2e} at rest, {there:.2e} moved"
        f" ({there / still:.2f})"
    )
    held = np.arange(given.flows) % 5 == 4
    scale = float(torch.stack([u for u, h in zip(coarse, held, strict=True) if not h]).std())
    parts = []
    for want in (False, True):
        ids = np.flatnonzero(held == want)
        meshes = [[case.tables(torch.from_numpy(p).float()) for p in moved[i]] for i in ids]
        parts.append(Flows(torch.stack([coarse[i] for i in ids]) / scale, meshes))
    learn, test = parts
    del fine
    still_one = float((test.u[:, 1:] - test.u[:, :-1]).square().mean()) * scale**2
    still_all = float((test.u[:, 1:] - test.u[:, :1]).square().mean()) * scale**2
    print(
        f"{len(learn.u)} flows to learn from, {len(test.u)} held out; {len(case.points)} points,"
        f" {test.u.shape[1] - 1} steps; data {time.monotonic() - began:.0f} s\n",
        flush=True,
    )
    table = variants(case.length)
    for seed in given.seeds:
        for name, variant in table.items():
            net, steps, each = train(case, variant, learn, seed, minutes, given.steps)
            one, rollout, rolling, share = judge(case, variant, net, test, scale)
            variant.runs.append(Run(parameters(net), steps, each, one, rollout, rolling, share))
            print(
                f"seed {seed}, {name}: {steps} steps, one-step {one:.3e}, rollout {rollout:.3e}",
                flush=True,
            )
    print()
    report(table, (still_one, still_all))
    print()
    keys: dict[str, Callable[[Run], float]] = {
        "one step": lambda r: r.one,
        "rollout": lambda r: r.rollout,
    }
    for what, key in keys.items():
        print(f"{what}: movement, same parameters and path, {verdict(table, 'control', key)}")
        for other in ("G₁ + RC", "G₁"):
            print(f"{what}: moving beside {other} {verdict(table, other, key)}")
    worse = [name for name, v in table.items() if max(r.one for r in v.runs) >= still_one]
    print("holds" if not worse else f"DOES NOT HOLD: no better than persistence: {worse}")
    return 0 if not worse else 1


if __name__ == "__main__":
    sys.exit(main())
