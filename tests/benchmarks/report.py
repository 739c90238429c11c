"""What the benchmarks have in common: their options, and how figures are printed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable

import torch

from meshsim.timing import Figures, machine

MODES = ["forward", "forward+backward"]


def parser(doc: str | None, seconds: float = 60.0) -> argparse.ArgumentParser:
    """With the options that all have: --threads, --rounds, --seconds, --json."""
    out = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    out.add_argument("--threads", type=int, default=1)
    out.add_argument("--rounds", type=int, default=7, help="at most, after one that warms up")
    out.add_argument("--seconds", type=float, default=seconds, help="for each case, about")
    out.add_argument("--json", action="store_true")
    return out


def parse(known: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with torch on so many threads."""
    options = known.parse_args()
    torch.set_num_threads(options.threads)
    return options


def report(
    options: argparse.Namespace, cases: Iterable[tuple[str, Figures]], peers: str = ""
) -> None:
    """Print each case as it is measured, or with --json one document of all."""
    found = {}
    if not options.json:
        print(f"{machine()}, {options.threads} threads{peers and f'; {peers}'}")
    for case, rows in cases:
        found[case] = rows
        if not options.json:
            print(case)
            for name, row in rows.items():
                print(line(name, row), flush=True)
    if options.json:
        print(json.dumps(found))


def line(name: str, row: dict[str, float]) -> str:
    """A variant's figures in one line."""
    return (
        f"  {name:26s}{row['milliseconds']:11.4f} ms  x {row['ratio']:6.2f}"
        f" [{row['low']:.2f}-{row['high']:.2f}]  peak {row['peak_bytes'] / 2**20:8.2f} MB"
        f"  error {row['error']:.1e}"
    )
