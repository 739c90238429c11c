"""Trains the density of the learned mover; see README.md beside this file."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from meshsim.movers.learned import Density, save_density
from meshsim.movers.simplices import Simplices
from meshsim.movers.training import train
from meshsim.solvers.domains import L_SHAPE, SQUARE, polygon, random_polygon, structured
from meshsim.solvers.elliptic import conical


def meshes(seed: int) -> list[Simplices]:
    """Two squares, an L and six polygons, of 250 to 450 points."""
    rng = np.random.default_rng(seed)
    out = [structured(20), polygon(SQUARE, 0.055), polygon(L_SHAPE, 0.05)]
    for _ in range(6):
        outline, holes = random_polygon(rng)
        out.append(polygon(outline, 0.04, holes))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=0.0, help="instead of steps")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    density, losses = Density(), []

    def say(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 50 == 49:
            print(
                f"step {step + 1}: error over that at rest {np.mean(losses[-50:]):.4f}", flush=True
            )

    grids = meshes(1000 + given.seed)
    train(density, grids, conical(2, 3), given.minutes, given.steps, given.seed, say=say)
    save_density(density, given.output)
    print(f"{given.output}: {len(losses)} steps")


if __name__ == "__main__":
    main()
