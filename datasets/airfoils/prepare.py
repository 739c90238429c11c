"""Potential flow past airfoils of many shapes: surface pressure and the flow around.

    python prepare.py -o DIR --shapes 200 [--points 1500] [--kinds naca4 smooth]

Every airfoil is a folder. A finished folder is not computed again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import meshsim
from meshsim.check import InputError, WorkError, check_known
from meshsim.mesh import Cells, Mesh
from meshsim.physics import vortex_panels

KINDS = ("naca4", "naca5", "smooth")
STEEPEST = math.radians(10)
RADIUS = 4.0  # chords from the middle of the chord to the outermost points
THINNEST = 0.012  # of a random shape between 2 % and 90 % of its chord


def contour(kind: str, random: np.random.Generator, n: int) -> Tensor:
    """(2 n − 1, 2) a drawn contour of a kind, trailing edge first and last, counter-clockwise."""
    thickness = random.uniform(0.08, 0.2)
    if kind == "naca4":
        camber, place = random.uniform(0.0, 0.06), random.uniform(0.25, 0.6)
        return vortex_panels.naca4(camber, place, thickness, n)
    if kind == "naca5":
        lift, place = random.uniform(0.1, 0.6), random.uniform(0.08, 0.25)
        return vortex_panels.naca5(lift, place, thickness, n)
    while True:
        found = smooth(random, thickness, n)
        if found is not None:
            return found


def smooth(random: np.random.Generator, thickness: float, n: int) -> Tensor | None:
    """A round nose, a sharp tail and random series between; None where it is too thin.

    Half the thickness is √x (1 − x) times a Bernstein series of degree 5 with positive
    coefficients (Kulfan, J. Aircraft 45, 2008); the camber line is three sines.
    """
    x = vortex_panels.stations(n)
    weights = torch.from_numpy(random.uniform(0.7, 1.4, 6))
    powers = [math.comb(5, i) * x**i * (1 - x) ** (5 - i) for i in range(6)]
    half = x.sqrt() * (1 - x) * (weights @ torch.stack(powers))
    half = half * (thickness / 2 / half.max())
    middle = (x > 0.02) & (x < 0.9)
    heights = random.normal([0.02, 0.0, 0.0], [0.02, 0.006, 0.003])
    line = sum(h * torch.sin((k + 1) * math.pi * x) for k, h in enumerate(heights))
    line = line - x * line[-1]  # sin kπ is not quite zero
    if float(2 * half[middle].min()) < THINNEST or float(line.abs().max()) > 0.06:
        return None
    return vortex_panels.wrap(torch.stack([x, line + half], 1), torch.stack([x, line - half], 1))


def crosses(ring: Tensor) -> bool:
    """Whether any two sides of a closed polygon (n, 2), its first point again last, meet."""
    a, b = ring[:-1], ring[1:]

    def side(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
        u, v = q - p, r - p
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    c, d = a[:, None], b[:, None]
    apart = side(c, d, a) * side(c, d, b) < 0  # (n, n): a side's ends to both sides of another
    return bool((apart & apart.T).any())


def o_grid(wall: Tensor, rings: int, radius: float) -> tuple[Tensor, Tensor]:
    """Points and quads of a body-fitted grid around an airfoil.

    w = (ζ + 1/ζ) / 2, with foci at the trailing edge and half a nose radius behind the nose,
    opens the airfoil to nearly a circle (Joukowski). There the grid is polar, the logarithm of
    the radius stretched from the contour to a circle.

    Arguments:
        wall: (m + 1, 2) contour, trailing edge first and last, counter-clockwise.
        rings: of points, the wall one of them.
        radius: of the outermost.

    Returns:
        (rings m, 2), wall first; (m (rings − 1), 4), counter-clockwise.
    """
    z = torch.view_as_complex(wall.contiguous()).numpy()[:-1]
    tail, nose = z[0], int(np.abs(z - z[0]).argmax())
    before, front, after = z[nose - 1 : nose + 2]
    # the circle through the nose and its neighbours
    a, b = before - front, after - front
    to_centre = (a * abs(b) ** 2 - b * abs(a) ** 2) / (a * b.conjugate() - b * a.conjugate())
    focus = front + to_centre / 2
    middle, half = (tail + focus) / 2, (tail - focus) / 2
    w = (z - middle) / half
    angles = np.zeros(len(z))  # of w² − 1, followed round the contour
    angles[1:] = math.pi + np.unwrap(np.angle(1 - w[1:])) + np.unwrap(np.angle(w[1:] + 1))
    zeta = w + np.sqrt(np.abs(w * w - 1)) * np.exp(0.5j * angles)
    centre = zeta.mean()
    polar = np.log(zeta - centre)
    stretch = np.expm1(2.0 * np.linspace(0, 1, rings)) / math.expm1(2.0)
    out = math.log(2 * radius / abs(half))
    logs = polar.real + stretch[:, None] * (out - polar.real)  # (rings, m)
    zeta = centre + np.exp(logs + 1j * polar.imag)
    points = middle + half * (zeta + 1 / zeta) / 2
    points[0] = z
    m = len(z)
    i = np.arange((rings - 1) * m)
    right = i // m * m + (i + 1) % m
    quads = np.stack([i, i + m, right + m, right], 1)
    xy = np.stack([points.real, points.imag], -1).reshape(-1, 2)
    return torch.from_numpy(xy), torch.from_numpy(quads)


def solve(kind: str, random: np.random.Generator, points: int) -> tuple[Mesh, Mesh, float]:
    """Surface and volume of a drawn airfoil at a drawn angle of attack, and the angle (rad)."""
    rings = max(3, round(math.sqrt(points / 5)))
    around = max(16, 2 * round(points / rings / 2))
    angle = float(random.uniform(-STEEPEST, STEEPEST))
    ring = contour(kind, random, 2 * around + 1)
    if crosses(ring):
        raise WorkError(f"airfoils: a contour of kind {kind} crosses itself")
    flow = vortex_panels.solve(ring, angle)  # 4 panels a cell
    near = flow.contour[:-1:2]
    n = torch.arange(len(near))
    velocity = flow.surface_velocity[:-1:2]
    surface = Mesh(
        near,
        {"line": torch.stack([n, n.roll(-1)], 1)},
        {"cp": flow.cp[:-1:2].float(), "velocity": velocity.float()},
        global_fields={"lift": torch.tensor(flow.lift)},
    )
    at, quads = o_grid(flow.contour[::4], rings, RADIUS)
    velocity = flow.velocity(at)
    cp = 1 - velocity.square().sum(1)
    fields = {"velocity": velocity.float(), "cp": cp.float()}
    volume = Mesh(at, {"quad": quads}, fields)
    if not bool((meshsim.geometry.measure.signed_measures(at, volume.cells) > 0).all()):
        raise WorkError(f"airfoils: the grid around a contour of kind {kind} folds over")
    loop = torch.stack([torch.arange(around), torch.arange(around).roll(-1)], 1)
    sides = {"airfoil": loop.flip(1), "far": loop + len(at) - around}
    return (
        surface,
        volume.with_boundary_cells({name: [Cells("line", x)] for name, x in sides.items()}),
        angle,
    )


def generate(
    out: Path,
    *,
    shapes: int = 200,
    points: int = 1500,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `airfoil_000/{surface,volume}.npz` and `parameters.json`, …; returns the folders.

    Airfoil k does not depend on how many there are.

    Arguments:
        out: the folder; made when it is not there.
        shapes: number of airfoils, each at one angle of attack.
        points: of the volume mesh, about.
        kinds: "naca4", "naca5", "smooth"; one is drawn for each airfoil.
        seed: of the draws.
        progress: called with (finished, of) after each airfoil.

    Raises:
        InputError: an argument is out of range, or a finished folder belongs to another case.
    """
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in kinds:
        check_known(kind, KINDS, "kind of airfoil:")
    if shapes < 1 or points < 100 or not kinds:
        raise InputError(
            "shapes, points, kinds: expected at least 1, at least 100, at least one kind, "
            f"got {shapes}, {points}, {list(kinds)}"
        )
    out.mkdir(parents=True, exist_ok=True)
    folders = [out / f"airfoil_{k:03d}" for k in range(shapes)]
    if progress:
        progress(0, shapes)
    for k, folder in enumerate(folders):
        random = np.random.default_rng([seed, k])
        kind = kinds[int(random.integers(len(kinds)))]
        case = {"seed": seed, "number": k, "points": points, "kinds": list(kinds)}
        if not _done(folder, case):
            _write(folder, case | {"kind": kind}, *solve(kind, random, points))
        if progress:
            progress(k + 1, shapes)
    return folders


def _done(folder: Path, case: dict[str, Any]) -> bool:
    if not folder.exists():
        return False
    try:
        found = json.loads((folder / "parameters.json").read_text())["case"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder}: not written by this recipe; give another folder") from None
    found.pop("kind", None)
    if found != case:
        raise InputError(
            f"{folder}: holds another case (expected {case}, got {found}); "
            "give another folder or delete it"
        )
    return True


def _write(folder: Path, case: dict[str, Any], surface: Mesh, volume: Mesh, angle: float) -> None:
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        meshsim.write(surface, part / "surface.npz")
        meshsim.write(volume, part / "volume.npz")
        text = json.dumps({"parameters": {"angle": angle}, "case": case}, indent=1)
        (part / "parameters.json").write_text(text)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--shapes", type=int, default=200)
    parser.add_argument("--points", type=int, default=1500)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        generate(
            **vars(given),
            progress=lambda done, of: print(f"{done}/{of} airfoils", file=sys.stderr),
        )
    except (InputError, WorkError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, WorkError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
