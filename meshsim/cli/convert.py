"""`meshsim convert`: between formats, or onto another mesh."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A mesh file or case folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The suffix says the format.")],
    onto: Annotated[
        Path | None, typer.Option("--onto", metavar="MESH", help="Carry the fields to this mesh.")
    ] = None,
    conservative: Annotated[
        bool, typer.Option("--conservative", help="With --onto: keep the integrals of the fields.")
    ] = False,
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

    for name in (source, onto):
        if name is not None and target.is_file() and name.exists() and target.samefile(name):
            raise InputError(f"{target}: is what is read (name another file)")
    if conservative and onto is None:
        raise InputError("--conservative: expected --onto MESH with it")
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
        times = data.times if isinstance(data, Series) else None
        ready(goal if times is None else Series(goal, times), target)  # before the work
        outside = 0
        if conservative:
            data = _conserved(data, goal, source, onto)
        else:
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


def _conserved(data: Any, goal: Any, source: Path, onto: Path) -> Any:
    from meshsim.render import carry_conserved

    out, known = carry_conserved(data, goal)
    if known.lost > 1e-12:
        outside = f"{100 * known.lost:.3g} % of {source} lies outside {onto}"
        print(f"note: {outside}: so much of it is in no integral", file=sys.stderr)
    if count := int((known.uncovered > 1e-9).sum()):
        text = f"{count} cells of {onto} lie outside {source}, wholly or in part"
        print(f"note: {text}: there the fields count as 0", file=sys.stderr)
    return out
