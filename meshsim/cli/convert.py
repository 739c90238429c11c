"""`meshsim convert`: between formats, or onto another mesh."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A mesh file or case folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The suffix says the format.")],
    onto: Annotated[
        Path | None, typer.Option("--onto", metavar="MESH", help="Carry the fields to this mesh.")
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", metavar="T", help="One time: a number, first or last.")
    ] = None,
    linear: Annotated[
        bool, typer.Option("--linear", help="Make quadratic cells linear: corners only.")
    ] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Read in this process.")] = False,
) -> None:
    """Convert a mesh; what the target cannot hold is said before it is written."""
    from meshsim.check import InputError
    from meshsim.cli.arguments import load, ready
    from meshsim.io import write

    data = load(source, trust, time)
    if linear:
        from meshsim.linear import linear as made_linear

        data = made_linear(data)
    if onto is not None:
        from meshsim.mesh import Mesh
        from meshsim.render import carry
        from meshsim.sample import Sample
        from meshsim.series import Series

        goal = load(onto, trust)
        if isinstance(goal, Series):  # its mesh is what counts
            goal = goal.frame(0)
        if isinstance(data, Sample) or not isinstance(goal, Mesh):
            raise InputError("--onto: expected meshes of one branch each")
        if isinstance(data, Series) and (data.points is not None or len(data.segments) > 1):
            raise InputError(f"--onto: the mesh of {source} changes: choose one --time")
        data, outside = carry(data, goal)
        if outside:
            print(
                f"note: {outside} points lie outside {source} and take their nearest value",
                file=sys.stderr,
            )
    for sentence in ready(data, target):
        print(f"note: {sentence}", file=sys.stderr)
    write(data, target)
    print(target, file=sys.stderr)
