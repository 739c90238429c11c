"""MeshGraphNet and the masked graph transformer on the demo's flows, for the same minutes.

    python tests/verify/processors.py [--only NAME …] [--minutes M | --steps N …] [-o DIR]

Prints a table: parameters, milliseconds a training step (steps of one unrolled pass), and over
eight unseen flows the means of the one-step, 50-step and 250-step errors. Asserts that the
transformer of transformer.toml stays within 1.2 times MeshGraphNet's full-rollout error.
`--steps`, one number for each model, trains for so many steps instead of minutes: for a machine
that is not idle, with steps in the ratio of the step times.
"""

from __future__ import annotations

import argparse
import csv
import sys
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

from demo_seeds import demo_store

from meshsim import Simulator
from meshsim.cli.arguments import recipe
from meshsim.cli.demo import judge
from meshsim.train import read_config, train

SIZES = {  # width, depth, in the order of their parameters
    "transformer 16 × 8": (16, 8),
    "transformer 32 × 4": (32, 4),
    "transformer 32 × 8": (32, 8),
    "transformer 48 × 8": (48, 8),
    "transformer 64 × 8": (64, 8),
}
REFERENCE, RECIPE = "meshgraphnet 48 × 8", "transformer 48 × 8"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[REFERENCE, *SIZES], help="names of models")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--steps", type=int, nargs="+", default=[], help="of each model")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/processors"))
    given = parser.parse_args()
    if given.steps and len(given.steps) != len(given.only):
        parser.error(f"--steps: expected {len(given.only)} numbers, got {len(given.steps)}")
    folder, (store, rollout) = recipe("cylinder_flow"), demo_store(given.output)
    rows = {}
    for i, name in enumerate(given.only):
        overrides = [f"data.store='{store.path}'", f"train.minutes={given.minutes}"]
        if given.steps:
            overrides[1:] = ["train.minutes=0", f"train.steps={given.steps[i]}"]
        if name in SIZES:
            width, depth = SIZES[name]
            overrides += [f"model.width={width}", f"model.depth={depth}"]
        run = given.output / name.replace(" ", "_").replace("×", "x")
        config = "transformer.toml" if name in SIZES else "train.toml"
        train(read_config(folder / config, overrides), run)  # at once where it is done
        rows[name] = result(run, judge(Simulator.load(run), store, **rollout))
        print(line(name, rows[name]), flush=True)
    print("\n| model | parameters | steps | ms a step | one step | 50 steps | 250 steps | worst |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        print(line(name, row))
    if not {REFERENCE, RECIPE} <= rows.keys():
        return 0
    ratio = rows[RECIPE]["rollout_all"] / rows[REFERENCE]["rollout_all"]
    print(f"\n250 steps, transformer over MeshGraphNet: {ratio:.2f}")
    print("holds" if ratio < 1.2 else "DOES NOT HOLD")
    return 0 if ratio < 1.2 else 1


def result(run: Path, cases: list[dict]) -> dict[str, float]:
    """Size, speed and errors of one trained model."""
    weights = Simulator.load(run).model.parameters()
    with (run / "log.csv").open() as file:
        log = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    times = [
        (b["seconds"] - a["seconds"]) / (b["step"] - a["step"])
        for a, b in pairwise(log)
        if a["unroll"] == b["unroll"] == 1
    ]
    ratios = [c["model"]["rollout_all"] / c["time_mean"]["rollout_all"] for c in cases]
    names = ("one_step", "rollout_50", "rollout_all")
    return {
        "parameters": sum(p.numel() for p in weights),
        "steps": log[-1]["step"],
        "milliseconds": 1e3 * median(times),
        **{name: mean(c["model"][name] for c in cases) for name in names},
        "worst": max(ratios),
    }


def line(name: str, row: dict[str, float]) -> str:
    """A row of the table; `worst` is the largest error over that of the flow's own time mean."""
    return (
        f"| {name} | {row['parameters']:,.0f} | {row['steps']:,.0f} | {row['milliseconds']:.0f}"
        f" | {row['one_step']:.4f} | {row['rollout_50']:.4f} | {row['rollout_all']:.4f}"
        f" | {row['worst']:.2f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
