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
    """Predict the targets on a mesh and write it with them; key=value are its parameters."""
    from meshsim.cli.arguments import pairs
    from meshsim.io import losses, read, write
    from meshsim.simulator import Simulator

    simulator = Simulator.load(run)
    data = read(mesh, trust=trust)
    answer = simulator.predict(data, pairs(options or []))
    for sentence in losses(answer, out):
        print(f"note: {sentence}", file=sys.stderr)
    write(answer, out)
    print(f"{out}: {', '.join(f.name for f in simulator.schema.targets)}", file=sys.stderr)
