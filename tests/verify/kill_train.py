"""A training run killed with SIGKILL at random steps ends with the same weights.

Usage: python tests/verify/kill_train.py [--kills 3] [--steps 400] [--seed S]

Trains a small simulator with `meshsim train`, once without interruption and once killed again
and again and started again by the same command, on one thread and on two. Prints the sha256 of
both weights; exit code 1 if they differ.
"""

import argparse
import hashlib
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from meshsim.data import Field, Schema, Store
from meshsim.mesh import Cells, Mesh
from meshsim.sample import Sample
from meshsim.series import Series

RECIPE = """
[data]
store = "{store}"
[model]
width = 32
depth = 4
hidden_layers = 1
activation = "silu"
[simulator]
bundle = 2
[train]
steps = {steps}
batch = [[0.0, 3], [0.6, 2]]
unroll = [[0.0, 1], [0.3, 2]]
optimiser = "muon"
mirror = ["y"]
warmup = 20
checkpoint_every = 25
validate_every = 60
select = "best"
log_every = 5
threads = {threads}
"""


def make_store(path: Path) -> None:
    """Waves running through a channel at four speeds."""
    nx, ny = 24, 10
    x, y = torch.meshgrid(torch.linspace(0, 2, nx), torch.linspace(0, 1, ny), indexing="ij")
    points = torch.stack([x.reshape(-1), y.reshape(-1)], 1).double()
    at = torch.arange(nx * ny).reshape(nx, ny)
    a, b, c, d = (k.reshape(-1) for k in (at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]))
    triangles = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    sides = {"inlet": at[0], "outlet": at[-1], "wall_low": at[:, 0], "wall_high": at[:, -1]}
    mesh = Mesh(points, {"triangle": triangles}).with_boundary_cells(
        {n: [Cells("line", torch.stack([s[:-1], s[1:]], 1))] for n, s in sides.items()}
    )
    fields = [
        Field("velocity", "state", components=2, noise=0.01),
        Field("inflow", "parameter", "global"),
    ]
    store = Store.create(path, Schema(fields))
    px, py = mesh.points.unbind(1)
    for i in range(4):
        inflow = 1.0 + 0.2 * i
        t = 0.05 * torch.arange(40, dtype=torch.float64)[:, None]
        phase = 2 * math.pi * (px - inflow * t)
        shape = 4 * py * (1 - py)
        u = inflow * shape * (1 + 0.3 * torch.sin(phase))
        velocity = torch.stack([u, shape * 0.4 * torch.cos(phase)], 2).float()
        series = Series(mesh, t[:, 0].tolist(), {"velocity": velocity})
        store.append(Sample(series, {"inflow": inflow}, name=f"case_{i}"), {})
    names = store.names
    store.set_splits({"train": names[:3], "valid": names[3:]})


def command(recipe: Path, run: Path) -> list[str]:
    return [sys.executable, "-m", "meshsim", "train", str(recipe), "-o", str(run)]


def step_of(run: Path) -> int:
    """The last step in the log."""
    try:
        rows = (run / "log.csv").read_text().splitlines()[1:]
        return max((int(r.split(",")[0]) for r in rows if r.split(",")[0].isdigit()), default=0)
    except OSError:
        return 0


def train_killed(recipe: Path, run: Path, at: list[int]) -> int:
    """Train, killed when the log reaches each of the steps; the number of kills that hit."""
    hit = 0
    for step in at:
        process = subprocess.Popen(command(recipe, run), stderr=subprocess.DEVNULL)
        while process.poll() is None and step_of(run) < step:
            time.sleep(0.01)
        time.sleep(random.random() * 0.05)  # anywhere inside a step or a write
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            hit += 1
        process.wait()
        print(f"  killed after step {step_of(run)} was logged", flush=True)
    subprocess.run(command(recipe, run), check=True)
    return hit


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    random.seed(seed)
    same = True
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        make_store(base / "store")
        for threads in (1, 2) if (os.cpu_count() or 1) > 1 else (1,):
            recipe = base / f"recipe_{threads}.toml"
            recipe.write_text(
                RECIPE.format(store=base / "store", steps=options.steps, threads=threads)
            )
            at = sorted(random.sample(range(1, options.steps - 10), options.kills))
            print(f"{threads} thread(s), {options.steps} steps, seed {seed}, kills at {at}")
            subprocess.run(command(recipe, base / f"whole_{threads}"), check=True)
            hit = train_killed(recipe, base / f"killed_{threads}", at)
            whole, killed = digest(base / f"whole_{threads}"), digest(base / f"killed_{threads}")
            print(f"  uninterrupted    {whole}\n  killed {hit} times   {killed}")
            print(f"  {'the same' if whole == killed else 'DIFFERENT'}")
            same &= whole == killed and hit == options.kills
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
