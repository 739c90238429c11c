"""`meshsim combine`: a committee of trained runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def combine(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Trained runs.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="RUN", help="A new folder.")],
) -> None:
    """Make one run of several steady ones, of any kinds: it predicts the mean of their networks.

    The folder holds copies of the runs' weights; `predict` and `evaluate` take it as any run.
    """
    from meshsim.check import InputError
    from meshsim.cli.arguments import folder, trained
    from meshsim.committee import Committee

    folder(out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty (expected a new folder)")
    members = []
    for i, run in enumerate(runs):
        same = [other for other in runs[:i] if other.resolve() == run.resolve()]
        if same:
            raise InputError(f"{run}: there twice, as {same[0]} (expected different runs)")
        member = trained(run)
        if isinstance(member, Committee):
            raise InputError(f"{run}: a committee itself (name its members)")
        members.append(member)
    made = Committee(members)
    made.save(out)
    shares = ", ".join(
        f"{run} {weight:.3g}" for run, weight in zip(runs, made.weights, strict=True)
    )
    print(f"{out}: {', '.join(made.fields)}; {shares}", file=sys.stderr)
