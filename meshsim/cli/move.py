"""`meshsim move`: the points of a mesh to where a monitor function wants them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def move(
    mesh: Annotated[Path, typer.Argument(metavar="MESH", help="A mesh file.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Mesh file to write.")],
    monitor: Annotated[
        str,
        typer.Option(
            metavar="FIELD|EXPRESSION",
            help="Where cells should be small: a positive field, or such as '1 + 5*H(u)'.",
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            help="learned (least error); flow or ma (equal distribution: the deformation method,"
            " which never tangles, or Monge–Ampère by quasi-Newton); ma-relaxation."
        ),
    ] = "learned",
    convention: Annotated[
        str, typer.Option(help="interpolated, recomputed or 'pulled back': see the README.")
    ] = "interpolated",
    damping: Annotated[float, typer.Option(help="Share of the way to go, 0 to 1.")] = 1.0,
    smooth: Annotated[float, typer.Option(help="Rounds of smoothing of the monitor.")] = 0.0,
    tolerance: Annotated[float, typer.Option(help="Of the residual (ma).")] = 1e-3,
    iterations: Annotated[int, typer.Option(help="At most (ma).")] = 1000,
    stages: Annotated[int, typer.Option(help="Of continuation, for high contrasts (ma).")] = 1,
    feature: Annotated[float, typer.Option(help="Degrees: sharper turns are corners.")] = 15.0,
    fixed: Annotated[bool, typer.Option("--fixed", help="Hold the boundary's points.")] = False,
    fields: Annotated[
        str,
        typer.Option(
            help="interpolate to the moved points; conserve integrals over cells; keep with them."
        ),
    ] = "interpolate",
    trust: Annotated[bool, typer.Option("--trust", help="Read in this process.")] = False,
) -> None:
    """Move the points a mesh already has: as many cells, more of them where the monitor is large.

    In an expression H(u) and G(u) are the norms of the Hessian and the gradient of a field over
    their maximum, H2 and G2 their squares, hessian, grad and arc the plain ones.
    """
    from meshsim.check import InputError, WorkError
    from meshsim.cli.arguments import load, ready
    from meshsim.io import write
    from meshsim.mesh import Mesh
    from meshsim.movers import Mover

    if not 0 <= damping <= 1:
        raise InputError(f"--damping: expected 0 to 1, got {damping}")
    data = load(mesh, trust)
    if not isinstance(data, Mesh):
        raise InputError(f"{mesh}: expected a single mesh, got a {type(data).__name__.lower()}")
    ready(data, out)
    mover = Mover(
        data,
        monitor,
        method,
        convention,
        smooth,
        damping,
        fields,
        tolerance,
        iterations,
        stages,
        feature,
        fixed,
    )
    answer = mover(data)
    for sentence in write(answer, out):
        print(f"note: {sentence}", file=sys.stderr)
    before, after = mover.spreads(data, answer)
    print(
        f"{out}: σ/μ of the monitor over cells {before:.3g} → {after:.3g},"
        f" {100 * mover.share:.0f} % of the way",
        file=sys.stderr,
    )
    if not mover.moved.converged:
        raise WorkError(f"{mesh}: {mover.moved.why}; the last good mesh is in {out}")
