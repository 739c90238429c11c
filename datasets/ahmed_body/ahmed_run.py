"""Running OpenFOAM's programs on a case, reading what they report, judging the run."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ahmed_case import DENSITY, EVERY, Numerics
from ahmed_geometry import Design

from meshsim.check import InputError, WorkError, one_line

PROGRAMS = (("blockMesh",), ("snappyHexMesh", "-overwrite"), ("simpleFoam",))
ENDED = (1, 2, 9, 15)  # signals that others send: hang-up, interrupt, kill, terminate
# What a run has to keep to. Residuals are initial ones, averaged over the last iterations.
MOST_RESIDUAL = {"Ux": 5e-3, "Uy": 2e-2, "Uz": 2e-2, "p": 2e-2, "k": 5e-3, "omega": 1e-3}
MOST_DRIFT = {"drag": 0.005, "lift": 0.02}
MOST_IMBALANCE = 1e-3
MOST_CP, LEAST_CP, MOST_SPEED = 1.2, -5.0, 3.0
MOST_DIFFERENCE = 0.01


class Failed(WorkError):
    """A run that is no sample: a program failed on it, or its result is no good."""


@dataclass(frozen=True)
class Run:
    """What a run of the solver reported.

    Arguments:
        force: (T, 3) of the air on the half body (N), at every `EVERY`th iteration.
        viscous: (T, 3), the part of it that friction has.
        residuals: {field: initial residual, averaged over the last iterations}.
        imbalance: |what leaves − what enters| / what enters.
        seconds: {program: processor time, or wall time where it does not say}.
    """

    force: np.ndarray
    viscous: np.ndarray
    residuals: dict[str, float]
    imbalance: float
    seconds: dict[str, float]


def environment() -> dict[str, str]:
    """The environment that OpenFOAM's programs need.

    WM_PROJECT_DIR is kept where it is set; else the folder with `etc/controlDict` is looked for
    above the programs and in the share folders beside them.

    Raises:
        WorkError: a program is not installed, or its folder is not found.
    """
    for program, *_ in PROGRAMS:
        if shutil.which(program) is None:
            raise WorkError(
                f"ahmed_body: the program {program} is not on the PATH (OpenFOAM 1912 or later "
                "of openfoam.com is needed; on Debian: apt-get install openfoam)"
            )
    out = dict(os.environ)
    if out.get("WM_PROJECT_DIR"):
        return out
    solver = Path(shutil.which("simpleFoam") or "").resolve()
    places = [p for above in solver.parents for p in (above, above / "share" / "openfoam")]
    for place in places:
        if (place / "etc" / "controlDict").is_file():
            return out | {"WM_PROJECT_DIR": str(place)}
    raise WorkError(
        "ahmed_body: WM_PROJECT_DIR is not set and OpenFOAM's etc/controlDict not found"
    )


def run(case: Path, numerics: Numerics) -> Run:
    """Mesh and solve a case that `write_case` wrote; the programs' output goes to `*.log` in it.

    Raises:
        Failed: a program failed.
        WorkError: a program is missing, or was ended from outside.
    """
    around = environment()
    for program, *options in PROGRAMS:
        log = case / f"{program}.log"
        with log.open("w") as stream:
            done = subprocess.run(
                [program, *options, "-case", str(case)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=around,
                check=False,
            )
        if -done.returncode in ENDED:
            raise WorkError(f"ahmed_body: {program} was ended by signal {-done.returncode}")
        if done.returncode:
            raise Failed(f"{program} ended with {done.returncode}: {_trouble(log)}")
    return report(case, numerics)


def _trouble(log: Path) -> str:
    """What a program's output says about its end, in one line."""
    text = log.read_text(errors="replace")
    at = max(text.rfind("FOAM FATAL"), 0) or text.find("sigFpe")
    return one_line(text[at:][:400] if at > 0 else text[-200:])


def report(case: Path, numerics: Numerics) -> Run:
    """What the logs and tables of a solved case say.

    Raises:
        Failed: the solver stopped early, or a table is missing or damaged.
    """
    log = (case / "simpleFoam.log").read_text(errors="replace")
    residuals = {}
    for name in MOST_RESIDUAL:
        found = re.findall(rf"Solving for {name}, Initial residual = (\S+),", log)
        if len(found) < numerics.iterations:
            raise Failed(f"simpleFoam stopped at iteration {len(found)}")
        residuals[name] = float(np.mean([float(v.strip(",")) for v in found[-numerics.averaged :]]))
    force = table(case / "postProcessing" / "forces" / "0" / "force.dat")
    flux = {
        name: table(case / "postProcessing" / f"flux_{name}" / "0" / "surfaceFieldValue.dat")
        for name in ("inlet", "outlet")
    }
    seconds = {}
    for program, *_ in PROGRAMS:
        text = (case / f"{program}.log").read_text(errors="replace")
        times = re.findall(r"(?:ExecutionTime|Finished meshing in) = ([\d.]+) s", text)
        if times:
            seconds[program] = float(times[-1])
    entering = abs(flux["inlet"][-1, -1])
    return Run(
        force[:, 1:4],
        force[:, 7:10],
        residuals,
        float(abs(flux["inlet"][-1, -1] + flux["outlet"][-1, -1]) / entering),
        seconds,
    )


def table(path: Path) -> np.ndarray:
    """The numbers of a function object's file: a row a record, brackets left out.

    Raises:
        Failed: no such file, or rows that differ in length.
    """
    try:
        lines = path.read_text().replace("(", " ").replace(")", " ").splitlines()
        rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        out = np.array(rows, dtype=float)
    except (OSError, ValueError) as error:
        raise Failed(f"{path.name}: cannot be read ({one_line(error)})") from error
    if out.ndim != 2 or not len(out):
        raise Failed(f"{path.name}: holds no records")
    return out


def coefficients(force: np.ndarray, design: Design) -> dict[str, np.ndarray]:
    """{"drag", "lift"}: 2 F / (½ ρ U² W H) for the force (…, 3) on the half body."""
    scale = 0.5 * DENSITY * design.inflow**2 * design.frontal_area / 2.0
    return {"drag": force[..., 0] / scale, "lift": force[..., 2] / scale}


def drift(found: Run, design: Design, numerics: Numerics) -> dict[str, float]:
    """{"drag", "lift"}: between the means over the two halves of the averaged iterations."""
    count = numerics.averaged // EVERY
    out = {}
    for name, values in coefficients(found.force[-count:], design).items():
        half = len(values) // 2
        out[name] = float(abs(values[half:].mean() - values[:half].mean()))
    return out


def objections(
    found: Run,
    design: Design,
    numerics: Numerics,
    *,
    pressure: np.ndarray,
    speed: np.ndarray,
    integrated: np.ndarray,
) -> list[str]:
    """Why a run is no sample: nothing where it is one.

    Arguments:
        found: what the run reported.
        pressure: (n,) of all cells and of the body's faces (Pa).
        speed: (C,) of all cells (m/s).
        integrated: (3,) force on the half body by the stored fields (N).
    """
    said = []
    if not (np.isfinite(pressure).all() and np.isfinite(speed).all()):
        return ["fields are not finite"]
    if not np.isfinite(found.force).all():
        return ["forces are not finite"]
    for name, most in MOST_RESIDUAL.items():
        if not found.residuals[name] < most:
            said.append(f"residual of {name}: {found.residuals[name]:.1e} (at most {most:g})")
    for name, value in drift(found, design, numerics).items():
        if not value < MOST_DRIFT[name]:
            said.append(f"{name} coefficient drifts by {value:.3f} (at most {MOST_DRIFT[name]:g})")
    if not found.imbalance < MOST_IMBALANCE:
        said.append(f"mass flux: {found.imbalance:.1e} of it is lost (at most {MOST_IMBALANCE:g})")
    cp = pressure / (0.5 * DENSITY * design.inflow**2)
    if cp.min() < LEAST_CP or cp.max() > MOST_CP:
        said.append(
            f"Cp from {cp.min():.2f} to {cp.max():.2f} (within {LEAST_CP:g} to {MOST_CP:g})"
        )
    if speed.max() > MOST_SPEED * design.inflow:
        ratio = speed.max() / design.inflow
        said.append(f"speed up to {ratio:.2f} of the inflow (at most {MOST_SPEED:g})")
    count = numerics.averaged // EVERY
    mean = found.force[-count:].mean(0)
    difference = float(np.linalg.norm(integrated - mean) / np.linalg.norm(mean))
    if not (math.isfinite(difference) and difference < MOST_DIFFERENCE):
        said.append(
            f"force by the stored fields differs by {difference:.1%} from OpenFOAM's "
            f"(at most {MOST_DIFFERENCE:.0%})"
        )
    return said


def check_numerics(cells: int, iterations: int, averaged: int) -> None:
    """Raise `InputError` unless these numbers make a case."""
    if not 20_000 <= cells <= 5_000_000:
        raise InputError(f"cells: expected 20000 to 5000000, got {cells}")
    if averaged < 2 * EVERY or averaged % (2 * EVERY) or iterations < 2 * averaged:
        raise InputError(
            f"iterations, averaged: expected an averaged one that {2 * EVERY} divides and twice "
            f"as many iterations or more, got {iterations}, {averaged}"
        )
    if iterations % EVERY:
        raise InputError(f"iterations: expected a multiple of {EVERY}, got {iterations}")
