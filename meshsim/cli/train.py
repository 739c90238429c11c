"""`meshsim train`: a recipe and a store into a simulator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The training recipe.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="RUN", help="Run folder.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...")] = None,
    warm: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Start from another run's weights.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run.")] = False,
) -> None:
    """Train a simulator; an interrupted run started again carries on where it was."""
    from meshsim.cli.arguments import configuration
    from meshsim.cli.progress import bar
    from meshsim.train import read_config
    from meshsim.train import train as work

    settings = read_config(configuration(config), options or [])
    with bar("train") as progress:
        work(settings, out, warm_start=warm, overwrite=overwrite, progress=progress)
    print(f"{out}: trained (see {out / 'log.csv'})", file=sys.stderr)
