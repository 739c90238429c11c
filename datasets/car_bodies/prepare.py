"""Potential flow past bodies shaped like cars, above a ground: pressure from shape and speed.

    python prepare.py -o DIR --bodies 60 [--faces 2000] [--volume 4000]

Every body is one file, or with a volume a folder. A finished one is not computed again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import meshsim
from meshsim.check import InputError, WorkError
from meshsim.io import to_npz
from meshsim.mesh import Mesh
from meshsim.physics import source_panels
from meshsim.sample import Sample

DENSITY = 1.2  # kg/m³
FOOT = 0.25  # of the length: where the windscreen rises from the bonnet
TUMBLE = 0.2  # of the width: how much narrower the roof is
SOFT = 0.25  # of the cabin's height: how far the corners of the roof line are rounded


@dataclass(frozen=True)
class Body:
    """Design values; x runs from nose to tail, z up from the ground, y across; the middle is 0.

    Arguments:
        length, width, height: m; the height is that of the roof above the ground.
        clearance: of the floor above the ground (m).
        bonnet: its height above the ground, and that of the boot (m).
        boot: its length (m).
        windscreen, rear: slants against the horizontal (degrees).
        crown: curvature of the roof: how far it falls, over the cabin's height, half a body's
            length from its top, times 4.
        rounding: q of the superellipsoid |x|^q + |y|^q + |z|^q = 1 that the body is bent from.
    """

    length: float = 4.4
    width: float = 1.8
    height: float = 1.45
    clearance: float = 0.18
    bonnet: float = 0.85
    boot: float = 0.4
    windscreen: float = 32.0
    rear: float = 35.0
    crown: float = 0.6
    rounding: float = 5.0

    def rise(self, x: Tensor) -> Tensor:
        """How far the roof line is up from bonnet to roof, 0 to 1, before it is scaled."""
        along = x + self.length / 2
        cabin = self.height - self.bonnet
        up = (along - FOOT * self.length) * math.tan(math.radians(self.windscreen)) / cabin
        left = self.length - self.boot - along
        down = left * math.tan(math.radians(self.rear)) / cabin
        line = _least(_least(up, down), torch.ones_like(x))
        line = -_least(-line, torch.zeros_like(x))
        return line * (1 - self.crown * (x / self.length) ** 2)

    def top(self, x: Tensor) -> Tensor:
        """z of the roof line."""
        every = torch.linspace(-self.length / 2, self.length / 2, 400, dtype=torch.float64)
        share = self.rise(x) / self.rise(every).max()
        return self.bonnet + (self.height - self.bonnet) * share

    def half_width(self, z: Tensor) -> Tensor:
        """Half the width at a height, before rounding."""
        share = (z - self.bonnet) / (self.height - self.bonnet)
        inside = -_least(-share, torch.zeros_like(z))
        return self.width / 2 * (1 - TUMBLE * inside)

    def bent(self, unit: Tensor) -> Tensor:
        """Points (N, 3) of the cube [−1, 1]³ where the body has them."""
        x = unit[:, 0] * self.length / 2
        z = self.clearance + (unit[:, 2] + 1) / 2 * (self.top(x) - self.clearance)
        return torch.stack([x, unit[:, 1] * self.half_width(z), z], 1)

    def inside(self, points: Tensor) -> Tensor:
        """(N,) bool."""
        x, y, z = points.unbind(1)
        up = 2 * (z - self.clearance) / (self.top(x) - self.clearance) - 1
        unit = torch.stack([2 * x / self.length, y / self.half_width(z), up], 1)
        return unit.abs().pow(self.rounding).sum(1) < 1

    def roof(self) -> float:
        """Length of the roof between the slants (m)."""
        cabin = self.height - self.bonnet
        slants = (cabin / math.tan(math.radians(a)) for a in (self.windscreen, self.rear))
        return (1 - FOOT) * self.length - self.boot - sum(slants)


def _least(a: Tensor, b: Tensor) -> Tensor:
    """The smaller of two, rounded off where they cross."""
    return (a + b - ((a - b) ** 2 + SOFT**2).sqrt()) / 2


def drawn(random: np.random.Generator) -> tuple[Body, float]:
    """A body and its inflow (m/s)."""
    while True:
        length = random.uniform(3.8, 4.9)
        height = random.uniform(1.35, 1.65)
        body = Body(
            length=length,
            width=random.uniform(1.6, 1.95),
            height=height,
            clearance=random.uniform(0.14, 0.26),
            bonnet=height - random.uniform(0.45, 0.65),
            boot=length * random.uniform(0.0, 0.16),
            windscreen=random.uniform(24.0, 45.0),
            rear=random.uniform(18.0, 75.0),
            crown=random.uniform(0.0, 1.2),
            rounding=random.uniform(3.5, 6.0),
        )
        if body.roof() > 0.12 * length:
            return body, float(random.uniform(20.0, 40.0))


def lattice(faces: int) -> tuple[Tensor, Tensor]:
    """Points (N, 3) on the cube [−1, 1]³ and quads (F, 4) around it, wound outwards.

    The numbers along x, y and z are as a car's sides; points are denser towards the edges.
    """
    k = math.sqrt(faces / 14.3)
    counts = [max(2, round(c * k)) for c in (2.8, 1.15, 1.0)]
    at = [torch.linspace(-1, 1, n + 1, dtype=torch.float64) for n in counts]
    at = [(t + torch.sin(math.pi / 2 * t)) / 2 for t in at]
    number = torch.arange(math.prod(n + 1 for n in counts)).reshape([n + 1 for n in counts])
    quads = []
    for axis in range(3):
        for side in (0, -1):
            # the other two axes in an order that makes the normal point along `axis`
            i = number.movedim([axis, (axis + 1) % 3, (axis + 2) % 3], [0, 1, 2])[side]
            q = torch.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]], -1).reshape(-1, 4)
            quads.append(q if side else q.flip(1))
    used, renamed = torch.unique(torch.cat(quads), return_inverse=True)
    cube = torch.stack(torch.meshgrid(*at, indexing="ij"), -1).reshape(-1, 3)
    return cube[used], renamed


def surface(body: Body, faces: int) -> Mesh:
    """The body's closed surface of about that many quads, normals outwards."""
    cube, quads = lattice(faces)
    size = cube.abs().pow(body.rounding).sum(1, keepdim=True).pow(1 / body.rounding)
    return Mesh(body.bent(cube / size), {"quad": quads})


def box(body: Body, points: int) -> Mesh:
    """Hexahedra of a box around the body, densest about it, without those that touch it.

    From one length ahead to one and a half behind, two widths to either side of the middle, up
    to three heights.
    """
    k = (points / 2.9) ** (1 / 3)
    nx, ny, nz = (max(4, round(c * k)) for c in (2.4, 1.2, 1.0))

    def spread(n: int, low: float, high: float, by: float) -> Tensor:
        t = torch.linspace(math.asinh(low * by), math.asinh(high * by), n, dtype=torch.float64)
        return torch.sinh(t) / by

    x = spread(nx, -1.5, 2.0, 1.5) * body.length
    y = spread(ny, -2.0, 2.0, 1.5) * body.width
    z = spread(nz, 0.0, 3.0, 1.0) * body.height
    z[0] = 0.0
    at = torch.stack(torch.meshgrid(x, y, z, indexing="ij"), -1).reshape(-1, 3)
    i = torch.arange(len(at)).reshape(nx, ny, nz)
    a, b = slice(None, -1), slice(1, None)
    ring = [(a, a), (b, a), (b, b), (a, b)]
    hexes = torch.stack([i[(*side, h)] for h in (a, b) for side in ring], -1).reshape(-1, 8)
    skin = surface(body, 2000)
    # nearer than half a panel the flow shows the panels
    spacing = skin.cell_measures.mean().sqrt()
    free = ~body.inside(at) & (torch.cdist(at, skin.cell_centres).amin(1) > spacing / 2)
    used, renamed = torch.unique(hexes[free[hexes].all(1)], return_inverse=True)
    mesh = Mesh(at[used], {"hexahedron": renamed})
    outer = (mesh.faces.neighbour < 0).nonzero().squeeze(1)
    centre = mesh.faces.centre[outer]
    low, high = at.amin(0) + 1e-6, at.amax(0) - 1e-6
    ground = centre[:, 2] < low[2]
    far = ~ground & ((centre < low) | (centre > high)).any(1)
    names = {"ground": ground, "far": far, "body": ~ground & ~far}
    return mesh.replace(boundaries={name: outer[rows] for name, rows in names.items()})


def solve(body: Body, inflow: float, faces: int, volume: int, at: str) -> dict[str, Mesh]:
    """{"surface": …}, and with a volume {"volume": …}, with their fields."""
    skin = surface(body, faces)
    wind = torch.tensor([inflow, 0.0, 0.0], dtype=torch.float64)
    flow = source_panels.solve(skin.points, skin.cells, wind, ground=(2, 0.0))
    if not flow.residual < 1e-6:
        raise WorkError(f"car_bodies: flow through the surface, {flow.residual:.1e} ({body})")
    head = DENSITY / 2 * inflow**2
    fields = {"cp": flow.cp, "pressure": head * flow.cp, "velocity": flow.surface_velocity}
    if at == "points":
        fields = {name: _at_points(skin, values) for name, values in fields.items()}
    fields = {name: values.float() for name, values in fields.items()}
    out = {"surface": skin.with_fields(**{at.removesuffix("s"): fields})}
    if volume:
        around = box(body, volume)
        velocity = flow.velocity(around.points)
        cp = 1 - (velocity / inflow).square().sum(1)
        found = {"cp": cp, "pressure": head * cp, "velocity": velocity}
        out["volume"] = around.with_fields({name: v.float() for name, v in found.items()})
    return out


def _at_points(mesh: Mesh, values: Tensor) -> Tensor:
    """Means over the faces about each point, weighted by area."""
    rows = values.reshape(len(values), -1)
    area = mesh.cell_measures[:, None]
    nodes = mesh.cells[0].nodes
    total, weight = rows.new_zeros(mesh.n_points, rows.shape[1]), rows.new_zeros(mesh.n_points, 1)
    for corner in nodes.unbind(1):
        total.index_add_(0, corner, rows * area)
        weight.index_add_(0, corner, area)
    return (total / weight).reshape(mesh.n_points, *values.shape[1:])


def generate(
    out: Path,
    *,
    bodies: int = 60,
    faces: int = 2000,
    volume: int = 0,
    at: str = "cells",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `car_000.npz`, …, or `car_000/{surface,volume}.npz` and `parameters.json`, ….

    Body k does not depend on how many there are.

    Arguments:
        out: the folder; made when it is not there.
        bodies: number of them, each at one inflow.
        faces: of a body's surface, about.
        volume: points of the mesh around a body, about, before it is cut out; 0 for none.
        at: "cells": surface fields where they are computed; "points": their means.
        seed: of the draws.
        progress: called with (finished, of) after each body.

    Returns:
        Their paths.

    Raises:
        InputError: an argument is out of range, or what is there belongs to another case.
    """
    if at not in ("cells", "points"):
        raise InputError(f"at: expected 'cells' or 'points', got {at!r}")
    if bodies < 1 or faces < 50 or volume < 0:
        raise InputError(
            "bodies, faces, volume: expected at least 1, at least 50, 0 or more, "
            f"got {bodies}, {faces}, {volume}"
        )
    out.mkdir(parents=True, exist_ok=True)
    ending = "" if volume else ".npz"
    paths = [out / f"car_{k:03d}{ending}" for k in range(bodies)]
    if progress:
        progress(0, bodies)
    for k, path in enumerate(paths):
        body, inflow = drawn(np.random.default_rng([seed, k]))
        parameters = {"inflow": inflow, **asdict(body)}
        case = {"faces": faces, "volume": volume, "at": at, "seed": seed, "number": k}
        if not _done(path, case):
            _write(path, solve(body, inflow, faces, volume, at), parameters, case)
        if progress:
            progress(k + 1, bodies)
    return paths


def _done(path: Path, case: dict[str, Any]) -> bool:
    """Whether a file or folder is there; it must be of this case."""
    if not path.exists():
        return False
    try:
        if path.is_dir():
            found = json.loads((path / "parameters.json").read_text())["case"]
        else:
            with np.load(path) as file:
                found = json.loads(str(file["case"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not written by this recipe; give another folder") from None
    if found != case:
        raise InputError(
            f"{path}: holds another case (expected {case}, got {found}); "
            "give another folder or delete it"
        )
    return True


def _write(
    path: Path, parts: dict[str, Mesh], parameters: dict[str, float], case: dict[str, Any]
) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.suffix:
            arrays = to_npz.arrays(Sample(parts["surface"], parameters))
            with part.open("wb") as file:
                np.savez(file, **arrays, case=np.array(json.dumps(case)))
        else:
            part.mkdir()
            for branch, mesh in parts.items():
                meshsim.write(mesh, part / f"{branch}.npz")
            text = json.dumps({"parameters": parameters, "case": case}, indent=1)
            (part / "parameters.json").write_text(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True) if path.suffix else shutil.rmtree(part, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--bodies", type=int, default=60)
    parser.add_argument("--faces", type=int, default=2000)
    parser.add_argument("--volume", type=int, default=0)
    parser.add_argument("--at", choices=("cells", "points"), default="cells")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        generate(
            **vars(given),
            progress=lambda done, of: print(f"{done}/{of} bodies", file=sys.stderr),
        )
    except (InputError, WorkError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, WorkError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
