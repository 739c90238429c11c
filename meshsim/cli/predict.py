"""`meshsim predict`: a steady prediction on a mesh, in the same format or another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained simulator.")],
    mesh: Annotated[Path, typer.Argument(metavar="MESH", help="A mesh file or case folder.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Mesh file to write.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Read in this process.")] = False,
) -> None:
    """Predict the targets on a mesh and write it with them; key=value are its parameters.

    A simulator without targets goes one step on from the state in the file.
    """
    from meshsim.cli.arguments import load, numbers, ready, simulator
    from meshsim.io import write
    from meshsim.sample import Sample
    from meshsim.series import Series

    trained = simulator(run)
    data = load(mesh, trust)
    branch = data.branch if isinstance(data, Sample) else data
    ready(branch.mesh if isinstance(branch, Series) else branch, out)
    answer = trained.predict(data, numbers(options or []))
    for sentence in write(answer, out):
        print(f"note: {sentence}", file=sys.stderr)
    made = trained.schema.targets or trained.schema.states
    print(f"{out}: {', '.join(f.name for f in made)}", file=sys.stderr)
