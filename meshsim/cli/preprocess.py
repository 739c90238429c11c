"""`meshsim preprocess`: files, globs, folders and cases into a store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from meshsim.data.costs import Plan


def preprocess(
    sources: Annotated[
        list[str], typer.Argument(metavar="SRC...", help="Files, globs, folders, case directories.")
    ],
    store: Annotated[Path, typer.Option("--output", "-o", metavar="STORE", help="Zarr store.")],
    config: Annotated[
        Path | None, typer.Option("--config", metavar="F", help="TOML: fields, splits, options.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes.", min=1)] = 1,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="Of all workers together, as 4GB.")
    ] = "",
    cluster: Annotated[
        str, typer.Option("--cluster", metavar="ADDRESS", help="A Dask scheduler: tcp://host:8786.")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store.")] = False,
    gone: Annotated[
        str,
        typer.Option(metavar="WHAT", help="Samples whose inputs are gone: refuse, drop, keep."),
    ] = "refuse",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the samples and what they would take.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Turn mesh files into a store; an interrupted run started again carries on."""
    from meshsim.check import WorkError
    from meshsim.cli.arguments import configuration, print_json
    from meshsim.cli.arguments import size as bytes_of
    from meshsim.cli.progress import bar
    from meshsim.data import estimate, read_preprocess_config
    from meshsim.data import preprocess as work

    options = read_preprocess_config(configuration(config)) if config else None
    limit = bytes_of(memory) if memory else 0
    if dry_run:
        plan = estimate(sources, config=options, workers=workers, memory=limit)
        print_json(plan.to_dict()) if json else _show(plan)
        return
    with bar("preprocess") as progress:
        report = work(
            sources,
            store,
            config=options,
            workers=workers,
            memory=limit,
            cluster=cluster,
            overwrite=overwrite,
            gone=gone,
            progress=progress,
        )
    if json:
        print_json({"store": store, **report.to_dict()})
    for path, message in report.failed:
        where = "" if path in message else f"{path}: "
        print(f"error: {where}{message}", file=sys.stderr)
    print(
        f"{store}: {report.done} samples written, {report.skipped} there already,"
        f" {len(report.failed)} failed"
        + (f", {len(report.gone)} taken out (their inputs are gone)" if report.gone else ""),
        file=sys.stderr,
    )
    if report.failed:
        total = report.done + report.skipped + len(report.failed)
        raise WorkError(f"{len(report.failed)} of {total} sources could not be used")


def _show(plan: Plan) -> None:
    """A line a sample on standard output, the totals on standard error."""
    from meshsim.cli.progress import clock
    from meshsim.data.cutting import gigabytes

    for cost in plan.samples:
        about = [
            f"{cost.files} file{'s' * (cost.files != 1)}, {gigabytes(cost.size)}",
            f"{gigabytes(cost.stored)} in the store",
            f"{cost.seconds:.2g} s",
            f"{gigabytes(cost.peak)} of memory",
            *(["(assumed)"] if cost.how == "assumed" else []),
        ]
        print("\t".join([cost.name, cost.path, *([cost.lacking] if cost.lacking else about)]))
    total = plan.totals
    print(
        f"{total['samples']} of {len(plan.samples)} samples, {gigabytes(total['size'])}: about"
        f" {gigabytes(total['stored'])} in the store, {clock(total['seconds'])} and"
        f" {gigabytes(total['peak'])} of memory with {total['workers']}"
        f" worker{'s' * (total['workers'] != 1)}",
        file=sys.stderr,
    )
