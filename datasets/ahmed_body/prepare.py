"""Turbulent flow past bodies like the one of Ahmed, Ramm and Faltin, solved by OpenFOAM.

    python prepare.py -o DIR --cases 24 [--seed 0] [--cells 80000] [--workers 2]

Every body is a folder. A finished one is not computed again; a run that is no good is recorded
under `rejected` and gives no sample.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ahmed_result
import ahmed_run
import torch
from ahmed_case import BODY, DENSITY, EVERY, Numerics, write_case
from ahmed_geometry import Design, draws
from ahmed_run import Failed

from meshsim.check import InputError, WorkError
from meshsim.data.workers import start_worker
from meshsim.physics.forces import forces


@dataclass(frozen=True)
class Job:
    """One body to solve.

    Arguments:
        design, numerics: what to solve, and how.
        path: the sample's folder, not there yet.
        record: the file to write instead where the run is rejected.
        work: the folder for the OpenFOAM case.
        keep: leave that folder behind.
    """

    design: Design
    numerics: Numerics
    path: Path
    record: Path
    work: Path
    keep: bool

    @property
    def case(self) -> dict[str, float]:
        """What the sample is made from; two that differ in it are different samples."""
        return asdict(self.design) | asdict(self.numerics)


def solve(job: Job) -> None:
    """Run a job: its sample's folder appears whole, or a record of why the run was rejected.

    Raises:
        WorkError: OpenFOAM is missing or was ended from outside.
    """
    shutil.rmtree(job.work, ignore_errors=True)
    job.work.mkdir(parents=True)
    try:
        write_case(job.design, job.numerics, job.work)
        try:
            found = ahmed_run.run(job.work, job.numerics)
            _write(job, found)
        except Failed as error:
            text = json.dumps({"reason": str(error), "case": job.case}, indent=1)
            job.record.parent.mkdir(exist_ok=True)
            part = job.record.with_suffix(f".{os.getpid()}.part")
            part.write_text(text + "\n")
            os.replace(part, job.record)
    finally:
        if not job.keep:
            shutil.rmtree(job.work, ignore_errors=True)


def _write(job: Job, found: ahmed_run.Run) -> None:
    """Judge a run, and write its sample.

    Raises:
        Failed: the run is no sample.
    """
    design, numerics = job.design, job.numerics
    mesh = ahmed_result.load(job.work)
    surface = ahmed_result.skin(mesh)
    pressure, stress = (surface.cell_fields[n] for n in ("pressure", "wall_shear_stress"))
    if not (torch.isfinite(pressure).all() and torch.isfinite(stress).all()):
        raise Failed("fields are not finite")
    integrated = forces(surface.points, surface.cells, pressure, stress.double(), on="cell")
    against = ahmed_run.objections(
        found,
        design,
        numerics,
        pressure=torch.cat(
            [mesh.cell_fields["pressure"], mesh.boundaries[BODY].fields["pressure"]]
        ).numpy(),
        speed=mesh.cell_fields["velocity"].norm(dim=1).numpy(),
        integrated=integrated.total.numpy(),
    )
    if against:
        raise Failed("; ".join(against))
    count = numerics.averaged // EVERY
    mean, viscous = found.force[-count:].mean(0), found.viscous[-count:].mean(0)
    drag, lift = (float(v) for v in ahmed_run.coefficients(mean, design).values())
    scalars = {
        "drag_coefficient": drag,
        "lift_coefficient": lift,
        "force": mean,
        "friction_force": viscous,
    }
    # the half body's force refers to half the frontal area
    parameters = asdict(design) | {"density": DENSITY, "area": design.frontal_area / 2.0}
    about = {
        "drag_coefficient": drag,
        "lift_coefficient": lift,
        "drift": ahmed_run.drift(found, design, numerics),
        "residuals": found.residuals,
        "imbalance": found.imbalance,
        "force": mean.tolist(),
        "integrated_force": integrated.total.tolist(),
        "cells": mesh.n_cells,
        "seconds": found.seconds,
    }
    part = job.path.with_name(f".{job.path.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        ahmed_result.save(surface, scalars, part / "surface.npz")
        ahmed_result.save(ahmed_result.around(mesh, design), {}, part / "volume.npz")
        text = json.dumps({"parameters": parameters, "case": job.case, "run": about}, indent=1)
        (part / "parameters.json").write_text(text + "\n")
        os.replace(part, job.path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def designs(cases: int, seed: int, slants: Sequence[float]) -> list[Design]:
    """The bodies of a data set: draws, or the body of 1984 at each of some slants."""
    return [Design(slant=float(s)) for s in slants] if len(slants) else draws(cases, seed)


def generate(
    out: Path,
    *,
    cases: int = 24,
    seed: int = 0,
    cells: int = 80_000,
    iterations: int = 500,
    averaged: int = 100,
    slants: Sequence[float] = (),
    workers: int = 1,
    keep: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `body_000/{surface.npz,volume.npz,parameters.json}`, … and return the folders.

    Arguments:
        out: the folder; made when it is not there.
        cases: number of bodies, a Latin hypercube over `ahmed_geometry.RANGES`.
        seed: of the draws.
        cells: of a mesh, about.
        iterations: of the solver.
        averaged: the last of them, whose mean is kept.
        slants: instead of draws, the body of 1984 with each of these slants (degrees).
        workers: bodies that are solved side by side.
        keep: leave the OpenFOAM cases in `cases/`.
        progress: called with (finished, of) after each body.

    Raises:
        InputError: an argument is out of range, or a finished body belongs to another case.
        WorkError: OpenFOAM is missing or was ended from outside; no run was any good.
    """
    ahmed_run.check_numerics(cells, iterations, averaged)
    if workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}")
    numerics = Numerics(cells, iterations, averaged)
    jobs = []
    for k, design in enumerate(designs(cases, seed, slants)):
        name = f"body_{k:03d}"
        work = out / ("cases" if keep else ".work") / name
        record = out / "rejected" / f"{name}.json"
        jobs.append(Job(design, numerics, out / name, record, work, keep))
    missing = [job for job in jobs if not _done(job)]
    if missing:
        ahmed_run.environment()  # complains before the work
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(".body_*.part"):  # of a run that was ended while it wrote
        shutil.rmtree(left, ignore_errors=True)
    finished = len(jobs) - len(missing)
    if progress:
        progress(finished, len(jobs))
    with closing(_solved(missing, workers)) as solved:
        for _ in solved:
            finished += 1
            if progress:
                progress(finished, len(jobs))
    if not keep:
        shutil.rmtree(out / ".work", ignore_errors=True)
    good = [job.path for job in jobs if job.path.exists()]
    if len(good) < len(jobs):
        text = f"{len(jobs) - len(good)} of {len(jobs)} runs were rejected: see {out / 'rejected'}"
        if not good:
            raise WorkError(f"ahmed_body: {text}")
        print(f"note: {text}", file=sys.stderr)
    return good


def _solved(jobs: Sequence[Job], workers: int) -> Generator[None, None, None]:
    """Solve jobs, yielding after each."""
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            solve(job)
            yield
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=start_worker)
    try:
        for done in as_completed([pool.submit(solve, job) for job in jobs]):
            done.result()
            yield
    except BaseException:  # a worker that is ended ends its program too
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _done(job: Job) -> bool:
    """Whether a body was solved, or its run rejected; what is there must be of this case."""
    for file in (job.path / "parameters.json", job.record):
        if not file.exists():
            continue
        try:
            found: Any = json.loads(file.read_text())["case"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{file}: not written by this recipe; give another folder") from None
        if found != job.case:
            raise InputError(
                f"{file}: holds another case (expected {job.case}, got {found}); "
                "give another folder or delete it"
            )
        return True
    if job.path.exists():
        raise InputError(f"{job.path}: not written by this recipe; give another folder")
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=int, default=80_000)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--averaged", type=int, default=100)
    parser.add_argument("--slants", type=float, nargs="+", default=())
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the OpenFOAM cases")
    given = parser.parse_args(arguments)
    try:
        generate(
            **vars(given),
            progress=lambda done, of: print(f"{done}/{of} bodies", file=sys.stderr, flush=True),
        )
    except (InputError, WorkError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, WorkError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
