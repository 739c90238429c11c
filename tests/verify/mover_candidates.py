"""Three other learned movers beside ours, trained on the same loss for the same time.

    python tests/verify/mover_candidates.py [--minutes M] [--seeds S…] [--share S]

1. "tutte": learned positive weights on edges; each point inside is the weighted mean of its
   neighbours, a sparse system solved in float64, boundary points spaced monotonically along sides
   (Tutte 1963, Floater 1997). Cannot tangle on convex domains; elsewhere it can.
2. "convex": x = ∇Φ(ξ) for a potential convex by construction, a log-sum-exp of planes (Calafiore
   et al. 2020) with normal derivatives as the box needs them; boxes only. The map cannot fold;
   triangles under it can.
3. "diffusion": X ← X + Δt (A − I) X with row-stochastic A and Δt = 0.1, four blocks of 32 steps
   (G-Adaptivity, Rowbottom et al. 2025). The bound is on the step, not on the triangles.

Trained as ours is (`meshsim.movers.training`): the finite-element error on the moved mesh over that
at rest, fresh problems, the meshes of datasets/mesh_movers, "convex" on its two squares only. A
tangled mesh costs 2 and what its cells lack of a twentieth of their measure; ours leaves it out.
Judged on the sets of tests/benchmarks/mover_cases.py, damped as is best on its validation fields
("× best"), and not.
Asserts that ours, shipped and retrained, tangles nothing.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import splu
from torch import Tensor, nn

from meshsim.check import InputError
from meshsim.movers.boundary import Sides
from meshsim.movers.dmm import RASTER
from meshsim.movers.learned import BULK, Density
from meshsim.movers.peers import Box, rastered
from meshsim.movers.simplices import Array, Simplices
from meshsim.movers.training import Problem, Say, draw, fit, train
from meshsim.movers.transport import Transport, as_density
from meshsim.movers.um2n import Neighbours, measures
from meshsim.ops import segment_mean, segment_softmax
from meshsim.solvers.elliptic import conical
from meshsim.timing import machine
from tests.benchmarks.bm_movers import Timed, best_damping, learned, measure, spread
from tests.benchmarks.mover_cases import SETS, Case

RECIPE = Path(__file__).resolve().parents[2] / "datasets" / "mesh_movers" / "train.py"
JUDGED = ("UM2N squares", "L-shape", "polygons", "channel")
WIDTH, BATCH, FEATURES = 32, 8, 7
BOUND = 4.0  # of log-weights: with much larger ones float64 itself tangles
BLOCKS, EULER, STEP = 4, 32, 0.1
FAR = (8, 32, 128)  # how often log m is averaged over neighbours, for the encoder


class Ready:
    """What the candidates need of a mesh.

    Attributes:
        prior: (E,) log-weights that leave the mesh as it is: mean value coordinates inside
            (Floater 2003), inverse distances along the boundary.
        facets: (B, 2) points, chain after chain, each from one held point to the next.
        chain: (B,) of each facet. pairs: (B, 2) its edges, both ways. size: (B,) its length.
    """

    def __init__(self, grid: Simplices):
        self.grid, self.sides = grid, Sides(grid)
        self.near = near = Neighbours.of(grid, self.sides)
        self.points, self.shares = torch.from_numpy(grid.points), torch.from_numpy(grid.lumped)
        order, chain = chains(grid, self.sides.held)
        ends = grid.boundary[order]
        size = np.linalg.norm(grid.points[ends[:, 1]] - grid.points[ends[:, 0]], axis=1)
        n = len(grid.points)
        key = (near.receiver * n + near.sender).numpy()
        weights = np.zeros(len(key))
        for i in range(3):
            at, j, k = (grid.cells[:, (i + m) % 3] for m in range(3))
            a, b = grid.points[j] - grid.points[at], grid.points[k] - grid.points[at]
            lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
            half = 2 * grid.measures / (lengths[0] * lengths[1] + (a * b).sum(1))  # tan(angle / 2)
            for to, length in zip((j, k), lengths, strict=True):
                np.add.at(weights, np.searchsorted(key, at * n + to), half / length)
        weights[near.boundary[near.receiver].numpy()] = 0.0
        pairs = np.searchsorted(key, np.stack([ends @ [n, 1], ends @ [1, n]], 1))
        weights[pairs] = 1 / size[:, None]
        self.prior = torch.from_numpy(weights).clamp(min=1e-300).log()
        self.facets, self.pairs = torch.from_numpy(ends), torch.from_numpy(pairs)
        self.chain, self.size = torch.tensor(chain), torch.from_numpy(size)

    def along(self, gaps: Float[Tensor, " B"]) -> Float[Tensor, "N D"]:
        """The points with those of the boundary apart as `gaps` > 0 along each chain."""
        none = gaps.new_zeros(int(self.chain.max()) + 1)
        longer = none.index_add(0, self.chain, self.size) / none.index_add(0, self.chain, gaps)
        at = (gaps * longer[self.chain]).cumsum(0)  # (B,) far ends, all chains in a row
        stop = self.size.cumsum(0)
        on = torch.searchsorted(stop, at.detach()).clamp(max=len(stop) - 1)
        share = 1 - (stop[on] - at) / self.size[on]
        first, last = self.points[self.facets[on]].unbind(1)
        there = first + share[:, None] * (last - first)
        inner = torch.cat([self.chain.diff() == 0, torch.zeros(1, dtype=torch.bool)])
        return self.points.index_copy(0, self.facets[inner, 1], there[inner])

    def lengths(self, x: Tensor) -> Float[Tensor, "E 1"]:
        """log of the edges' lengths over their mean, points at x (N, 2)."""
        size = (x[self.near.sender] - x[self.near.receiver]).norm(dim=1, keepdim=True)
        return (size / size.mean()).clamp(min=1e-6).log()

    def smoothed(self, values: Array) -> Float[Tensor, "N k"]:
        """What means over neighbours, and theirs, make of values (N,): what is farther away."""
        counts = self.near.rowptr.diff().double().clamp(min=1.0)
        walk, out = sparse((1 / counts)[self.near.receiver], self.near), []
        for k in range(1, FAR[-1] + 1):
            values = 0.5 * (values + walk @ values)
            if k in FAR:
                out.append(values)
        return torch.from_numpy(np.stack(out, 1))


def chains(grid: Simplices, held: np.ndarray) -> tuple[list[int], list[int]]:
    """Facets of the boundary in order from held point to held point, and the chain of each."""
    after = {int(a): k for k, a in enumerate(grid.boundary[:, 0])}
    order, chain = [], []
    for number, start in enumerate([*np.flatnonzero(held).tolist(), *after]):  # rings have no held
        at = start
        while (facet := after.pop(at, None)) is not None:
            order.append(facet)
            chain.append(number)
            at = int(grid.boundary[facet, 1])
            if held[at]:
                break
    return order, chain


def sparse(share: Tensor, near: Neighbours) -> csr_matrix:
    """(N, N) with the edges' values (E,), rows the receivers."""
    n = len(near.rowptr) - 1
    values = (share.detach().numpy(), near.sender.numpy(), near.rowptr.numpy())
    return csr_matrix(values, shape=(n, n))


def features(m: Float[Tensor, " n"], shares: Float[Tensor, " n"]) -> Float[Tensor, "n F"]:
    """Where each value of a monitor stands among all: as `Density`, without its shape."""
    share = shares / shares.sum()
    mean = (m * share).sum()
    whole = [((m / mean - 1) ** 2 * share).sum().sqrt(), (m.max() / mean).log()]
    whole += [(m.min() / mean).log(), ((m > mean) * share).sum()]
    columns = [(m / mean).log(), (m / m.max()).log(), (m / m.min()).log()]
    return torch.stack([*columns, *(w.expand(len(m)) for w in whole)], 1)


def zeroed(layer: Any) -> Any:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, outputs))


class Encoder(nn.Module):
    """Message passing from a monitor's features (N, F) to hidden states (N, H)."""

    def __init__(self, rounds: int = 3):
        super().__init__()
        self.into = layers(FEATURES + len(FAR), WIDTH)
        self.rounds = nn.ModuleList(layers(2 * WIDTH, WIDTH) for _ in range(rounds))

    def forward(self, f: Tensor, ready: Ready) -> Tensor:
        near, far = ready.near, ready.smoothed(f[:, 0].numpy())
        h = self.into(torch.cat([f, far - f[:, :1]], 1).float())
        for layer in self.rounds:
            mean = segment_mean(h.index_select(0, near.sender), near.rowptr)
            h = h + layer(torch.cat([h, mean], 1))
        return h


def pull(power: Tensor, bend: Tensor, a: Tensor, near: Neighbours) -> Float[Tensor, "E k"]:
    """Log-weights of edges in float64: γ times the ends' mean log m, and a bounded bend."""
    middle = 0.5 * (a[near.sender] + a[near.receiver])
    return power.double() * middle[:, None] + BOUND * torch.tanh(bend.double() / BOUND)


class _Means(torch.autograd.Function):
    """Points inside as means of their neighbours, x = W x there, the boundary's given."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, x: Tensor, near: Neighbours) -> Tensor:
        on = near.boundary.numpy()
        inside = np.flatnonzero(~on)
        rows = sparse(share, near)[inside]
        system = -rows[:, inside]
        system.setdiag(1.0)
        factors = splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0)
        out = np.where(on[:, None], x.detach().numpy(), 0.0)
        out[inside] = factors.solve(rows @ out)
        found = torch.from_numpy(out)
        ctx.rest = (rows, inside, factors, near, found)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, inside, factors, near, found = ctx.rest
        grad = grads[0].numpy()
        back = np.zeros_like(grad)
        back[inside] = factors.solve(np.ascontiguousarray(grad[inside]), trans="T")
        share = (torch.from_numpy(back)[near.receiver] * found[near.sender]).sum(1)
        given = np.where(near.boundary.numpy()[:, None], grad + rows.T @ back[inside], 0.0)
        return share, torch.from_numpy(given), None


class Tutte(nn.Module):
    """Learned convex combinations, w_ij = prior_ij exp(logit_ij), and spacings of the boundary."""

    rate = 1e-2

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor([0.35, 0.35]))
        self.encoder = Encoder()
        self.edge = layers(3 * WIDTH + 1, 2)
        zeroed(self.edge[-1])

    def forward(self, ready: Ready, m: Float[Tensor, " N"]) -> Float[Tensor, "N D"]:
        near, f = ready.near, features(m, ready.shares)
        h = self.encoder(f, ready)
        here, there = h.index_select(0, near.receiver), h.index_select(0, near.sender)
        ends = [here + there, there - here, here * there, ready.lengths(ready.points).float()]
        logits = pull(self.power, self.edge(torch.cat(ends, 1)), f[:, 0], near)  # (E, 2)
        share = segment_softmax(ready.prior + logits[:, 0], near.rowptr, near.receiver)
        gaps = ready.size * torch.exp(-logits[ready.pairs, 1].mean(1))
        found: Tensor = _Means.apply(share, ready.along(gaps), near)
        return found


class _Steps(torch.autograd.Function):
    """x ← x + Δt P (W − I) x, again and again, P onto where points may go."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, x: Tensor, near: Neighbours) -> Tensor:
        matrix, at, places = sparse(share, near), x.detach().numpy(), []
        on = np.flatnonzero(near.boundary.numpy())
        free = near.free.numpy()[on]
        for _ in range(EULER):
            places.append(at)
            way = matrix @ at - at
            way[on] = np.einsum("bij,bj->bi", free, way[on])
            at = at + STEP * way
        ctx.rest = (matrix, on, free, places, near)
        return torch.from_numpy(at)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        matrix, on, free, places, near = ctx.rest
        back, turned, ways = grads[0].numpy(), matrix.T.tocsr(), []
        for _ in places:
            way = back.copy()
            way[on] = np.einsum("bij,bj->bi", free, way[on])
            ways.append(way)
            back = back + STEP * (turned @ way - way)
        sent = torch.from_numpy(np.concatenate(places, 1))  # (N, 2 EULER)
        adjoint = torch.from_numpy(np.concatenate(ways[::-1], 1))
        share = STEP * (adjoint[near.receiver] * sent[near.sender]).sum(1)
        return share, torch.from_numpy(back), None


class Diffusion(nn.Module):
    """Row-stochastic diffusion: blocks of explicit steps, each block with an attention of its own.

    Points of sides slide along them, by weights of their neighbours there.
    """

    rate = 1e-2

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.full((BLOCKS,), 0.5))
        self.encoder = Encoder()
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(BLOCKS))
        self.edge = nn.ModuleList(layers(2, 1) for _ in range(BLOCKS))
        for edge in self.edge:
            zeroed(edge[-1])  # type: ignore[index]

    def forward(self, ready: Ready, m: Float[Tensor, " N"]) -> Float[Tensor, "N D"]:
        near, f, x = ready.near, features(m, ready.shares), ready.points
        h = self.encoder(f, ready)
        for k in range(BLOCKS):
            query, key = self.heads[k](h).chunk(2, 1)
            score = (query[near.receiver] * key[near.sender]).mean(1, keepdim=True)
            bend = self.edge[k](torch.cat([score, ready.lengths(x).float()], 1))
            logits = pull(self.power[k], bend, f[:, 0], near).squeeze(1)
            share = segment_softmax(ready.prior + logits, near.rowptr, near.receiver)
            x = _Steps.apply(share, x, near)
        back = torch.from_numpy(ready.sides.back(x.detach().numpy()))  # sides that are curved
        return x + (back - x).detach()


class Convex(nn.Module):
    """x = ∇Φ, Φ(ξ) = ε log Σ_j exp((ξ·y_j − |y_j|²/2 + ψ_j)/ε) over the raster and its mirrors.

    Affine functions under a log-sum-exp: convex whatever ψ is. Mirrors at every side make ∂Φ/∂n
    there what holds the side. Δψ = −s with normal derivative 0, s from convolutions of the monitor.
    """

    rate, epsilon = 3e-3, 2.0 / (RASTER - 1) ** 2

    def __init__(self, modes: int = 16):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(0.5))
        self.convolutions = nn.Sequential(
            nn.Conv2d(FEATURES, WIDTH, 1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 5, padding=2, padding_mode="reflect"),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 5, padding=2, padding_mode="reflect"),
            nn.SiLU(),
            zeroed(nn.Conv2d(WIDTH, 1, 1)),
        )
        self.at = torch.linspace(0, 1, RASTER, dtype=torch.float64)
        self.share = torch.where((self.at == 0) | (self.at == 1), 0.5, 1.0).double()
        waves = torch.arange(modes, dtype=torch.float64)
        self.cosines = torch.cos(torch.pi * waves[:, None] * self.at)  # (K, R)
        norm = torch.where(waves > 0, 2.0, 1.0) / (RASTER - 1)
        square = torch.pi**2 * (waves[:, None] ** 2 + waves**2)
        self.green = norm[:, None] * norm / torch.where(square > 0, square, torch.inf)

    def potential(self, m: Float[Tensor, "R R"]) -> Float[Tensor, "R R"]:
        """ψ on the raster of the box, from the monitor there."""
        share = self.share[:, None] * self.share
        f = features(m.reshape(-1), share.reshape(-1))
        bend = self.convolutions(f.float().T.reshape(1, -1, RASTER, RASTER))[0, 0].double()
        s = self.power.double() * f[:, 0].view_as(bend) + BOUND * torch.tanh(bend / BOUND)
        code = self.green * (self.cosines @ (s * share) @ self.cosines.T)
        return self.cosines.T @ code @ self.cosines

    def forward(self, ready: Ready, m: Float[Tensor, " N"]) -> Float[Tensor, "N D"]:
        if not whole(ready.grid):
            raise InputError("the convex potential moves meshes of a whole square")
        box = Box(ready.grid.points)
        unit = box.within(ready.grid.points)
        psi = self.potential(rastered(ready.grid, m, unit))
        height = torch.exp((psi - psi.max()) / self.epsilon)
        images = torch.stack([self.at, -self.at, 2 - self.at])  # (3, R)
        near = torch.exp(-((unit[:, :, None, None] - images) ** 2) / (2 * self.epsilon))
        near = near * self.share  # (N, 2, 3, R); mirrors of the ends are the ends
        (a, b), (p, q) = near.sum(2).unbind(1), (near * images).sum(2).unbind(1)  # (N, R) each
        total = ((a @ height) * b).sum(1, keepdim=True)
        x = torch.stack([((p @ height) * b).sum(1), ((a @ height) * q).sum(1)], 1) / total
        x = torch.where((unit == 0) | (unit == 1), unit, x)  # rounding
        return torch.from_numpy(box.low) + box.size * x


def whole(grid: Simplices) -> bool:
    """Whether a mesh fills a square."""
    return bool(abs(grid.measures.sum() / Box(grid.points).size ** 2 - 1) < 1e-6)


Candidate = Tutte | Convex | Diffusion
KINDS = {"retrained": Density, "tutte": Tutte, "convex": Convex, "diffusion": Diffusion}


def lost(problem: Problem, x: Tensor) -> Tensor:
    """The error over that at rest, at most 2; more on a tangled mesh."""
    transport = problem.transport
    size = measures(x, transport.cells) / measures(transport.points, transport.cells)
    if (size <= 0).any():
        return 2.0 + torch.relu(0.05 - size).sum()
    return (problem.error(x) / problem.error(transport.points)).clamp(max=2.0)


def train_candidate(
    net: Candidate, grids: list[Simplices], minutes: float, seed: int, say: Say
) -> None:
    """As `meshsim.movers.training.train` does ours; on those of the meshes that `net` can move."""
    grids = [g for g in grids if g.dim == 2 and (whole(g) or not isinstance(net, Convex))]
    transports = [Transport(grid) for grid in grids]
    known = {id(transport): Ready(transport.grid) for transport in transports}

    def loss_of(rng: np.random.Generator) -> Tensor:
        problems = [draw(rng, transports, lambda dim: conical(dim, 3)) for _ in range(BATCH)]
        losses = [lost(p, net(known[id(p.transport)], p.monitor)) for p in problems]
        return torch.stack(losses).mean()

    fit(net, loss_of, minutes, 0, seed, net.rate, say)


class Second(Timed):
    """Leaves points at rest and takes a second: what ratios of times are to."""

    def __init__(self) -> None:
        super().__init__(lambda grid: lambda case: grid.points)

    def __call__(self, case: Case) -> tuple[Array, float, float]:
        return case.grid.points, 1.0, 1.0


def in_use(net: Candidate) -> Callable[[Simplices], Callable[[Case], Array]]:
    """Moves the points of cases, whether that tangles them or not."""

    def prepare(grid: Simplices) -> Callable[[Case], Array]:
        ready = Ready(grid)
        return lambda case: net(ready, as_density(case.monitor, grid)).numpy()

    return prepare


def trained(kind: str, seed: int, minutes: float, grids: list[Simplices]) -> Timed:
    """A mover of a kind; says how its training went."""
    torch.manual_seed(seed)
    net: Density | Candidate = KINDS[kind]()
    losses: list[float] = []
    began = time.process_time()

    def say(step: int, loss: float) -> None:
        losses.append(loss)

    if isinstance(net, Density):
        train(net, grids, lambda dim: conical(dim, 6 - dim), minutes, seed=seed, say=say)
    else:
        train_candidate(net, grids, minutes, seed, say)
    net.eval().requires_grad_(False)
    spent, tenth = (time.process_time() - began) / 60, max(len(losses) // 10, 1)
    print(
        f"| {kind} {seed} | {sum(p.numel() for p in net.parameters()):,} | {len(losses)}"
        f" | {spent:.1f} | {np.mean(losses[:tenth]):.3f} | {np.mean(losses[-tenth:]):.3f} |",
        flush=True,
    )
    return Timed(learned(net, BULK) if isinstance(net, Density) else in_use(net))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--share", type=float, default=0.1, help="of each set's meshes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}, one thread, {given.minutes:g} minutes of training each\n")
    print("| trained | parameters | steps | CPU minutes | loss, first tenth | last tenth |")
    print("|---|---|---|---|---|---|")
    made, meshes = {}, runpy.run_path(str(RECIPE))["meshes"]
    for seed in given.seeds:
        grids = meshes(1000 + seed)
        for kind in KINDS:
            made[f"{kind} {seed}"] = trained(kind, seed, given.minutes, grids)
    damping = {name: best_damping(mover) for name, mover in made.items()}
    print("\ndamping:", ", ".join(f"{name} {s:g}" for name, s in damping.items()))
    made = {"rest": Second(), "ours": Timed(learned(None, BULK)), **made}
    bad = 0.0
    for title in JUDGED:
        cases = SETS[title](given.share)
        points = np.mean([len(c.grid.points) for c in cases])
        print(
            f"\n### {title}: {len(cases)} meshes of {points:.0f} points\n\n"
            "| mover | gain | median | untangled | improved | tangled cells | σ/μ | worst cell"
            " | ms a mesh | prepared |\n|---|---|---|---|---|---|---|---|---|---|"
        )
        for name, row in measure(cases, made, damping).items():
            if name.startswith("rest"):
                continue
            bad += row["tangled"] if name.startswith(("ours", "retrained")) else 0.0
            print(
                f"| {name} | {row['gain']:+.1%}{spread(row)} | {row['median']:+.1%}"
                f" | {row['untangled']:+.1%} | {row['improved']:.0%} | {row['tangled']:.0f}"
                f" | {row['spread']:.2f} | {row['quality']:.2f}"
                f" | {1e3 / row['first']:.0f} | {1e3 / row['again']:.0f} |",
                flush=True,
            )
    print("holds" if bad == 0 else "DOES NOT HOLD: ours tangled a mesh")
    return 0 if bad == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
