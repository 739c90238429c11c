"""`meshsim preprocess`: files, globs, folders and cases into a store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def preprocess(
    sources: Annotated[
        list[str], typer.Argument(metavar="SRC...", help="Files, globs, folders, case directories.")
    ],
    store: Annotated[Path, typer.Option("--output", "-o", metavar="STORE", help="Zarr store.")],
    config: Annotated[
        Path | None, typer.Option("--config", metavar="F", help="TOML: fields, splits, options.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes.", min=1)] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the samples.")] = False,
) -> None:
    """Turn mesh files into a store; an interrupted run started again carries on."""
    from meshsim.check import WorkError
    from meshsim.cli.arguments import configuration
    from meshsim.cli.progress import bar
    from meshsim.data import preprocess as work
    from meshsim.data import read_preprocess_config

    options = read_preprocess_config(configuration(config)) if config else None
    if dry_run:
        from meshsim.data import find_sources

        for source in find_sources(sources, options):
            print("\t".join([source.name, str(source.path), *filter(None, [source.lacking])]))
        return
    with bar("preprocess") as progress:
        report = work(
            sources, store, config=options, workers=workers, overwrite=overwrite, progress=progress
        )
    for path, message in report.failed:
        where = "" if path in message else f"{path}: "
        print(f"error: {where}{message}", file=sys.stderr)
    print(
        f"{store}: {report.done} samples written, {report.skipped} there already,"
        f" {len(report.failed)} failed",
        file=sys.stderr,
    )
    if report.failed:
        total = report.done + report.skipped + len(report.failed)
        raise WorkError(f"{len(report.failed)} of {total} sources could not be used")
