"""What the demo of bodies measures: pressures and forces beside baselines, a scaled body, an STL.

Pressure is compared as the mesh holds it, weighted by area; coefficients are those of
`meshsim.physics.designs`, with the frontal area and the wind along x.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from meshsim.check import InputError
from meshsim.geometry.measure import triangles
from meshsim.io import read, write
from meshsim.mesh import Mesh
from meshsim.physics.designs import coefficients, frontal_area, weighted_relative_l2
from meshsim.physics.forces import body_forces
from meshsim.sample import Sample

if TYPE_CHECKING:
    from meshsim.data import Store
    from meshsim.surrogate import Surrogate

WIND = (1.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Known:
    """What the baselines know of the training bodies.

    Arguments:
        density: of the fluid (kg m⁻³).
        centres: (B, C, 3) of their cells.
        cp: (B, C) pressure over ½ ρ U².
        designs: (B, P) their parameters.
        lift: (B,) their lift coefficients.
    """

    density: float
    centres: Tensor
    cp: Tensor
    designs: Tensor
    lift: Tensor


def known(store: Store, names: Sequence[str], density: float) -> Known:
    """Read the training bodies, which must have the same cells in the same order."""
    centres, cps, designs, lifts = [], [], [], []
    for name in names:
        sample = store.sample(name)
        centres.append(sample.mesh.cell_centres.double())
        if centres[-1].shape != centres[0].shape:
            raise InputError(
                f"sample {name!r}: expected {len(centres[0])} cells as in {names[0]!r},"
                f" got {len(centres[-1])}"
            )
        cps.append(_pressure(sample.mesh) / _head(sample, density))
        designs.append(_design(sample))
        area = frontal_area(sample.mesh.points, sample.mesh.cells, WIND)
        lifts.append(_coefficients(sample, sample.mesh, density, area)["lift"])
    lift = torch.tensor(lifts, dtype=torch.float64)
    return Known(density, torch.stack(centres), torch.stack(cps), torch.stack(designs), lift)


def _design(sample: Sample) -> Tensor:
    return torch.cat([sample.parameters[key].reshape(-1).double() for key in sample.parameters])


def _pressure(mesh: Mesh) -> Tensor:
    if "pressure" not in mesh.cell_fields:
        raise InputError("field 'pressure': expected it on the cells of every body")
    return mesh.cell_fields["pressure"].reshape(-1).double()


def _head(sample: Sample, density: float) -> float:
    return 0.5 * density * float(sample.parameters["inflow"]) ** 2


def _coefficients(sample: Sample, mesh: Mesh, density: float, area: float) -> dict[str, float]:
    speed = float(sample.parameters["inflow"])
    found = coefficients(body_forces(mesh, "pressure"), density, speed, area)
    return {name: float(value) for name, value in found.items()}


def beside(
    sample: Sample, answer: Mesh, training: Known, surrogate: Surrogate
) -> dict[str, dict[str, float]]:
    """Errors of the pressure and coefficients, the model's beside those of the baselines.

    Returns:
        {"pressure": {who: relative L2}, "lift": {who: coefficient}, "drag": {who: coefficient}}.
        "nearest_body": the training body whose cells' centres lie nearest in the mean, "linear":
        the lift by least squares over the parameters.
    """
    mesh, density = sample.mesh, training.density
    truth, head = _pressure(mesh), _head(sample, density)
    far = (training.centres - mesh.cell_centres.double()).square().sum((1, 2))
    branch = next(iter(surrogate.branches))
    mean = surrogate.normaliser.mean(f"{branch}:pressure").double()
    guesses = {
        "model": _pressure(answer),
        "nearest_body": head * training.cp[int(far.argmin())],
        "mean_body": head * training.cp.mean(0),
        "training_mean": mean.expand(len(truth)),
    }
    area = mesh.cell_measures
    out: dict[str, dict[str, float]] = {
        "pressure": {w: weighted_relative_l2(truth, p, area) for w, p in guesses.items()},
        "lift": {},
        "drag": {},
    }
    shadow = frontal_area(mesh.points, mesh.cells, WIND)
    for who, pressure in {"computed": truth, **guesses}.items():
        changed = mesh.with_fields(cell={"pressure": pressure})
        found = _coefficients(sample, changed, density, shadow)
        for name in ("lift", "drag"):
            out[name][who] = found[name]
    out["lift"]["linear"] = _linear(training, _design(sample))
    return out


def _linear(training: Known, design: Tensor) -> float:
    """The lift of a design by least squares over those of the training."""
    mean, size = training.designs.mean(0), training.designs.std(0, correction=0)
    rows = ((training.designs - mean) / size.clamp_min(1e-12)).numpy()
    one = ((design - mean) / size.clamp_min(1e-12)).numpy()
    ones = np.ones((len(rows), 1))
    fit = np.linalg.lstsq(np.hstack([ones, rows]), training.lift.numpy(), rcond=None)[0]
    return float(fit[0] + one @ fit[1:])


def scaled(surrogate: Surrogate, sample: Sample, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The same body larger by a factor: what the model says to it, and how well it answers.

    Potential flow has no length of its own, so that the pressure on the body scaled about the
    ground below its middle is that before scaling, at the same inflow.
    """
    factor, mesh = float(asked["scale"]), sample.mesh
    larger = Sample(mesh.replace(points=factor * mesh.points), sample.parameters)
    area, errors = mesh.cell_measures, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are in what is returned
        for each in (larger, sample):
            answer = surrogate.predict(each, draws=asked["draws"])
            assert isinstance(answer, Sample)
            errors.append(weighted_relative_l2(_pressure(mesh), _pressure(answer.mesh), area))
    return {
        "scale": factor,
        "warnings": surrogate.outside(larger),
        "relative_l2": errors[0],
        "unscaled_relative_l2": errors[1],
    }


def bare(
    surrogate: Surrogate, sample: Sample, asked: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Write a body as body.stl, read that back, predict on it and write body.vtp."""
    nodes, cell = triangles(sample.mesh.cells)
    surface = Mesh(sample.mesh.points, {"triangle": nodes})
    write(surface, out / "body.stl")
    alone = read(out / "body.stl")
    assert isinstance(alone, Mesh)
    inflow = sample.parameters["inflow"]
    answer = surrogate.predict(Sample(alone), {"inflow": inflow}, draws=asked["draws"], spread=True)
    mesh = answer.mesh if isinstance(answer, Sample) else answer
    write(mesh, out / "body.vtp")
    # a reader may number triangles anew: each is compared with the cell it lies nearest to
    centres = surface.cell_centres.double()
    nearest = torch.cdist(mesh.cell_centres.double(), centres).argmin(1)
    truth, guess = _pressure(sample.mesh)[cell[nearest]], _pressure(mesh)
    area = mesh.cell_measures.double()
    spread = mesh.cell_fields["pressure_spread"].double()
    return {
        "triangles": mesh.n_cells,
        "relative_l2": weighted_relative_l2(truth, guess, area),
        "error": float((area * (guess - truth).abs()).sum() / area.sum()),
        "spread": float((area * spread).sum() / area.sum()),
    }
