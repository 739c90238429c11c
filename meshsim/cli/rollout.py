"""`meshsim rollout`: steps forward in time from the state in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def rollout(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained simulator.")],
    mesh: Annotated[Path, typer.Argument(metavar="MESH", help="A mesh or series with the state.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help=".pvd, .xdmf, .npz …")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Default: the series' end.")] = None,
    start: Annotated[float | None, typer.Option("--start", metavar="TIME")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Read in this process.")] = False,
) -> None:
    """Roll a simulator out from a state and write the series; key=value are its parameters."""
    from meshsim.cli.arguments import load, numbers, ready, simulator
    from meshsim.cli.progress import bar
    from meshsim.io import write
    from meshsim.sample import Sample
    from meshsim.series import Series

    trained = simulator(run)
    data = load(mesh, trust)
    branch = data.branch if isinstance(data, Sample) else data
    here, frames = (branch.mesh, len(branch)) if isinstance(branch, Series) else (branch, 2)
    frames = frames if steps is None else max(steps, 0) + 1
    ready(Series(here, [float(i) for i in range(frames)]), out)
    with bar("rollout") as progress:
        series = trained.rollout(
            data, steps, parameters=numbers(options or []), start=start, progress=progress
        )
    for sentence in write(series, out):
        print(f"note: {sentence}", file=sys.stderr)
    print(f"{out}: {len(series)} times", file=sys.stderr)
