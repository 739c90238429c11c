"""`meshsim bench`: the operators that take the time, beside their peers, on this machine."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="blocks attention segment neighbors tables"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Else as torch has.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small meshes, few rounds.")] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="Also measure operators that are not compiled.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Time compiled operators and their peers side by side: ratios, memory, errors."""
    import torch

    from meshsim.benchmarks import CASES, run
    from meshsim.check import check_known
    from meshsim.cli.arguments import print_json
    from meshsim.timing import machine

    for name in names or []:
        check_known(name, CASES, "benchmark")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        heading = f"{machine()}, {torch.get_num_threads()} threads"
        print(heading, file=sys.stderr if json else sys.stdout, flush=True)
        found = {}
        for name in names or CASES:
            for case, rows in run(name, quick, reference):
                found[case] = rows
                if not json:
                    _print(case, rows)
    finally:
        torch.set_num_threads(before)
    if json:
        print_json(found)


def _print(case: str, rows: dict[str, dict[str, Any]]) -> None:
    print(case)
    for name, row in rows.items():
        print(
            f"  {name:28}{row['milliseconds']:9.1f} ms {row['ratio']:7.2f}x"
            f" [{row['low']:.2f}-{row['high']:.2f}]  peak {row['peak_bytes'] / 2**20:7.1f} MB"
            f"  error {row['error']:.1e}",
            flush=True,
        )
