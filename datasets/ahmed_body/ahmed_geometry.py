"""The body of Ahmed, Ramm and Faltin with its dimensions free: designs, surface, edges."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy.stats import qmc

from meshsim.check import InputError

# least and greatest value of each draw; lengths in m, the angle in degrees, the inflow in m/s
RANGES: dict[str, tuple[float, float]] = {
    "slant": (0.0, 40.0),
    "length": (0.90, 1.20),
    "width": (0.33, 0.45),
    "height": (0.25, 0.33),
    "slant_length": (0.16, 0.28),
    "radius": (0.05, 0.12),
    "clearance": (0.03, 0.08),
    "inflow": (30.0, 50.0),
}


@dataclass(frozen=True)
class Design:
    """One body and the speed of the air; the defaults are the body of 1984 with its 25° slant.

    x runs from the nose (0) downstream, z up from the ground, y = 0 is the plane of symmetry.

    Arguments:
        slant: angle of the rear slant from the horizontal (degrees).
        length, width, height: of the body (m).
        slant_length: along the slant (m).
        radius: of the four edges of the front (m).
        clearance: between ground and floor of the body (m).
        inflow: speed of the air (m/s).

    Raises:
        InputError: the rounded edges meet, the slant cuts the floor or reaches the front.

    >>> Design().frontal_area
    0.112032
    """

    slant: float = 25.0
    length: float = 1.044
    width: float = 0.389
    height: float = 0.288
    slant_length: float = 0.222
    radius: float = 0.1
    clearance: float = 0.05
    inflow: float = 40.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and (value > 0.0 or (name == "slant" and value == 0.0))):
                raise InputError(f"{name}: expected a number above 0, got {value}")
        if 2.0 * self.radius >= min(self.width, self.height):
            raise InputError(
                f"radius: expected less than half of width and height, got {self.radius}"
            )
        if not 0.0 <= self.slant < 90.0 or self.drop >= self.height:
            raise InputError(f"slant: expected one that leaves a base, got {self.slant}")
        if self.radius + self.run >= self.length:
            raise InputError(f"slant_length: it reaches the rounded front ({self.slant_length})")

    @property
    def drop(self) -> float:
        """How much lower the upper edge of the base lies than the roof (m)."""
        return self.slant_length * math.sin(math.radians(self.slant))

    @property
    def run(self) -> float:
        """Length of the slant along x (m)."""
        return self.slant_length * math.cos(math.radians(self.slant))

    @property
    def frontal_area(self) -> float:
        """Width × height (m²): what the coefficients refer to."""
        return self.width * self.height


def draws(cases: int, seed: int) -> list[Design]:
    """A Latin hypercube of designs over `RANGES`; the same for the same arguments.

    Raises:
        InputError: less than one case.
    """
    if cases < 1:
        raise InputError(f"cases: expected at least 1, got {cases}")
    low, high = np.array(list(RANGES.values())).T
    unit = qmc.LatinHypercube(d=len(RANGES), seed=seed).random(cases)
    # six digits, so that a design written to a file is the same when read
    table = np.round(qmc.scale(unit, low, high), 6).tolist()
    return [Design(**dict(zip(RANGES, row, strict=True))) for row in table]


def sections(design: Design, arc: int = 32) -> np.ndarray:
    """(S, 4) places x of cross sections, their half-width, bottom and top (m).

    All cross sections are rectangles: the front is the common part of a body rounded in plan and
    one rounded in side view, so the four edges along x stay sharp and run into its corners.
    """
    d = design
    turn = np.linspace(0.0, np.pi / 2.0, arc + 1)
    x = d.radius * (1.0 - np.cos(turn))
    inset = d.radius * (1.0 - np.sin(turn))
    low, high = d.clearance, d.clearance + d.height
    nose = np.stack([x, d.width / 2.0 - inset, low + inset, high - inset], 1)
    rear = [
        [d.length - d.run, d.width / 2.0, low, high],
        [d.length, d.width / 2.0, low, high - d.drop],
    ]
    return np.concatenate([nose, rear])


def surface(design: Design, arc: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) and triangles (T, 3) of the whole closed body, right-handed normals outwards.

    >>> points, triangles = surface(Design())
    >>> len(points), len(triangles)
    (140, 276)
    """
    table = sections(design, arc)
    n = len(table)
    x, w, low, high = table.T
    # corners in the order of a right-handed turn about x
    corners = np.stack(
        [np.stack([x, y, z], 1) for y, z in ((-w, low), (w, low), (w, high), (-w, high))], 1
    )  # (S, 4, 3)
    at = np.arange(4 * n).reshape(n, 4)
    quads = [at[0, ::-1], at[-1]]
    for k in range(4):
        j = (k + 1) % 4
        quads += list(np.stack([at[:-1, k], at[:-1, j], at[1:, j], at[1:, k]], 1))
    rings = np.array(quads)
    triangles = np.concatenate([rings[:, [0, 1, 2]], rings[:, [0, 2, 3]]])
    return corners.reshape(-1, 3), triangles


def edges(design: Design, arc: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) and lines (n, 2) of the sharp edges that the mesh has to keep."""
    points, _ = surface(design, arc)
    at = np.arange(len(points)).reshape(-1, 4)
    along = [np.stack([at[:-1, k], at[1:, k]], 1) for k in range(4)]
    base = np.stack([at[-1], np.roll(at[-1], -1)], 1)
    # where the angle is less than some degrees there is no edge worth following
    slant = [at[-2, 2:][None]] if design.slant > 3.0 else []
    return points, np.concatenate([*along, base, *slant])


def write_stl(design: Design, path: Path) -> None:
    """The surface as a binary STL file."""
    points, triangles = surface(design)
    facets = np.zeros(
        len(triangles), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")]
    )
    corners = points[triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facets["normal"] = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    facets["corners"] = corners
    count = np.array(len(triangles), "<u4").tobytes()
    path.write_bytes(b"Ahmed body, m".ljust(80) + count + facets.tobytes())


NAMES = tuple(field.name for field in fields(Design))
