"""Trains a mover: ours, whose density ships, or a published one; see README.md beside this file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from meshsim.movers.dmm import DataFreeMover
from meshsim.movers.learned import Density, save_density
from meshsim.movers.peers import train_data_free, train_um2n, train_uniform
from meshsim.movers.simplices import Simplices
from meshsim.movers.training import train
from meshsim.movers.um2n import UM2N
from meshsim.solvers.domains import L_SHAPE, SQUARE, box, polygon, random_polygon, structured
from meshsim.solvers.elliptic import conical


def meshes(seed: int) -> list[Simplices]:
    """Two squares, an L, eight polygons, half of them graded, and three cubes."""
    rng = np.random.default_rng(seed)
    out = [structured(20), polygon(SQUARE, 0.055), polygon(L_SHAPE, 0.05)]
    for k in range(8):
        outline, holes = random_polygon(rng)
        out.append(polygon(outline, graded(rng) if k % 2 else 0.04, holes))
    return out + [box(size) for size in (0.2, 0.17, 0.15)]


def graded(rng: np.random.Generator) -> Callable[[float, float], float]:
    """A size of cells that grows five times from a random place outwards."""
    at = rng.uniform(0.3, 0.7, 2)
    return lambda x, y: min(0.015 + 0.12 * float(np.hypot(x - at[0], y - at[1])), 0.075)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    kinds = ["density", "um2n", "m-uniform", "data-free"]
    parser.add_argument("--mover", default="density", choices=kinds)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=0.0, help="instead of steps")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    losses: list[float] = []

    def say(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 50 == 49:
            print(f"step {step + 1}: loss {np.mean(losses[-50:]):.4f}", flush=True)

    if given.mover == "density":
        density = Density()  # its loss is the error over that at rest
        grids = meshes(1000 + given.seed)
        train(
            density,
            grids,
            lambda dim: conical(dim, 6 - dim),
            given.minutes,
            given.steps,
            given.seed,
            say=say,
        )
        save_density(density, given.output)
    else:
        length = {"minutes": given.minutes, "steps": given.steps, "seed": given.seed}
        net: torch.nn.Module = DataFreeMover() if given.mover == "data-free" else UM2N()
        if isinstance(net, DataFreeMover):
            train_data_free(net, **length, say=say)
        elif isinstance(net, UM2N):
            fit = train_um2n if given.mover == "um2n" else train_uniform
            fit(net, squares(), **length, say=say)
        save_file(net.state_dict(), given.output)
    print(f"{given.output}: {len(losses)} steps")


def squares() -> list[Simplices]:
    """What the published movers are trained on: squares of about 440 points."""
    return [structured(20), polygon(SQUARE, 0.055), polygon(SQUARE, 0.05)]


if __name__ == "__main__":
    main()
