"""`meshsim evaluate`: a simulator on a split of a store, beside its baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained simulator.")],
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store.")],
    split: Annotated[str, typer.Option("--split", help="Which samples.")] = "test",
    start: Annotated[
        int,
        typer.Option("--start", metavar="FRAME", min=0, help="First frame; before it: history."),
    ] = 0,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Default: to the end.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure one-step, n-step and full-rollout errors beside persistence and the time mean."""
    from meshsim.check import InputError
    from meshsim.cli.arguments import expect, print_json
    from meshsim.cli.arguments import trained as trained_in
    from meshsim.cli.progress import bar
    from meshsim.committee import Committee
    from meshsim.data import Store
    from meshsim.surrogate import Surrogate
    from meshsim.train import evaluate as work
    from meshsim.train import evaluate_committee, evaluate_surrogate

    trained = trained_in(run)
    expect(store, "store")
    if isinstance(trained, Committee | Surrogate) and (start or steps is not None):
        what = type(trained).__name__.lower()
        raise InputError(f"{run}: a {what}, which has no time: --start and --steps are not for it")
    known = Store(store)
    with bar("evaluate") as progress:
        if isinstance(trained, Committee):
            report = evaluate_committee(trained, known, split=split, progress=progress)
        elif isinstance(trained, Surrogate):
            report = evaluate_surrogate(trained, known, split=split, progress=progress)
        else:
            report = work(trained, known, split=split, start=start, steps=steps, progress=progress)
    if json:
        print_json(report)
    else:
        _table(report)


def _table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    for field, metrics in report["metrics"].items():
        table = Table(title=f"{field}: mean over {report['samples']} samples")
        table.add_column("")
        for metric in metrics:
            table.add_column(metric, justify="right")
        rows = {"model": metrics} | {
            n: b[field] for n, b in report["baselines"].items() if field in b
        }
        for name, row in rows.items():
            cells = [row.get(metric) for metric in metrics]
            table.add_row(name, *("–" if c is None else f"{c:.4g}" for c in cells))
        Console().print(table)
