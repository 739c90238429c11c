"""Runs the benchmarks one after the other and ends with the table of goals, all in Markdown.

Run: python tests/benchmarks/run.py [NAME…] [--threads 1 2] [--quick] [--json]

Each in a process of its own. NAME is a file without `bm_`, or `isa` and `allocator`: the blocks
again with narrower instruction sets, and with an allocator that keeps its pages (transparent huge
pages, nothing given back). Progress goes to standard error; the exit code is 1 if one failed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from goals import Cases, slower, table

HERE = Path(__file__).resolve().parent
SOME = ("PyG", "split", "meshsim", "meshsim bf16 products", "meshsim bf16 edges")
WITH_PEERS = (*SOME, "split autocast", "PhysicsNeMo trick", "PhysicsNeMo trick autocast")
COMPILED = ("torch.compile(PyG)", "torch.compile(split)")
TUNED = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 30),
}
MACHINE = """
import importlib.util
import meshsim.ops
from meshsim import native
from meshsim.timing import machine
from tests.benchmarks.physicsnemo_peer import WHAT
scatter = "" if importlib.util.find_spec("torch_scatter") else " not"
print(native.isa())
print(f"{machine()}; {WHAT}; torch-scatter is{scatter} installed")
"""


@dataclass(frozen=True)
class Run:
    """One call of a benchmark: its file, a title, arguments, those of --quick, variables."""

    file: str
    title: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    threads: str = "each"  # or "all"


def _again(title: str, only: tuple[str, ...], variables: dict[str, str]) -> Run:
    arguments = ("--sizes", "30k", "--rounds", "3", "--only", *only)
    quick = ("--sizes", "2k", "--rounds", "3", "--only", *only)
    return Run("blocks", title, arguments, quick, variables, "all")


ISAS = ("portable", "avx2", "avx512", "amx")
FEW = ("--rounds", "3")
SOON = ("--seconds", "15")
SIZES = ("empty", "ten", "2-D", "column", "heads", "3-D")
RUNS: dict[str, tuple[Run, ...]] = {
    "blocks": (
        Run("blocks", "one message block", ("--seconds", "60"), ("--sizes", "2k", "--rounds", "3")),
    ),
    "compile": (
        Run(
            "blocks",
            "one message block under torch.compile",
            ("--compile", "--sizes", "30k", "--rounds", "3", "--only", *SOME, *COMPILED),
            ("--compile", "--sizes", "200", "--rounds", "3"),
            threads="all",
        ),
    ),
    "isa": tuple(
        _again(f"one message block, {isa}", SOME, {"MESHSIM_ISA": isa}) for isa in ISAS[-2::-1]
    ),
    "allocator": (_again("one message block, tuned allocator", WITH_PEERS, TUNED),),
    "large": (Run("large", "a large mesh", (), ("--nodes", "3000"), threads="all"),),
    "meshgraphnet": (Run("meshgraphnet", "MeshGraphNet", SOON, ("--sizes", "200", *FEW)),),
    "attention": (Run("attention", "masked attention", SOON, ("--sizes", "200", *FEW)),),
    "layer": (Run("layer", "a layer of masked attention", SOON, ("--sizes", "200", *FEW)),),
    "tokens": (Run("tokens", "a transformer block's nodes", SOON, ("--nodes", "500", *FEW)),),
    "anchors": (
        Run(
            "anchors",
            "queries through anchored blocks",
            ("--seconds", "20"),
            ("--queries", "1000", "--cases", "64x4x100", *FEW),
        ),
    ),
    "anchored": (
        Run(
            "anchored",
            "an anchored model at millions of points",
            (),
            ("--points", "100000", "--anchors", "64", *FEW),
            threads="all",
        ),
    ),
    "body": (
        Run(
            "body",
            "distances from a body",
            ("--queries", "20000", *SOON),
            ("--triangles", "1000", "--queries", "1000", *FEW),
        ),
    ),
    "mlp_rows": (Run("mlp_rows", "encoders and decoder", SOON, ("--rows", "1000", *FEW)),),
    "segment": (
        Run(
            "segment",
            "segment reductions",
            ("--seconds", "1.5", "--sizes", *SIZES),
            ("--seconds", "0.1", "--sizes", *SIZES[:3]),
        ),
        Run(
            "segment",
            "segment reductions, large",
            ("--seconds", "1.5", "--sizes", "3-D large"),
            ("--seconds", "0.1", "--sizes", "ten"),
            threads="all",
        ),
    ),
    "scatter": (
        Run(
            "scatter",
            "the functions of torch_scatter",
            ("--seconds", "1"),
            ("--seconds", "0.1", "--sizes", "ten", "2-D"),
            threads="all",
        ),
    ),
    "gather": (Run("gather", "sums over neighbours", SOON, ("--sizes", "200", *FEW)),),
    "neighbors": (Run("neighbors", "neighbours", SOON, ("--points", "3000", *FEW)),),
    "sampling": (
        Run("sampling", "farthest points", SOON, ("--points", "3000", "--taken", "100", *FEW)),
    ),
    "locate": (
        Run("locate", "points in cells", SOON, ("--points", "1000", "--queries", "1000", *FEW)),
    ),
    "order": (Run("order", "orders", SOON, ("--points", "3000", "--size", "200", *FEW)),),
    "io": (
        Run(
            "io",
            "windows of a store, and a file to its graph",
            ("--rounds", "5"),
            ("--nodes", "30000", "--frames", "20", "--cubes", "8", "--rounds", "2"),
            threads="all",
        ),
    ),
    "preprocess": (
        Run(
            "preprocess",
            "preprocessing with one worker and with two",
            (),
            ("--files", "14", "--scale", "0.4", "--rounds", "3"),
            {"OMP_NUM_THREADS": "1"},
            threads="all",
        ),
    ),
    "tables": (Run("tables", "tables of edges and faces", SOON, ("--side", "8", *FEW)),),
}


def measure(run: Run, threads: int, quick: bool) -> Cases:
    """The cases that one call prints; empty, with a line on standard error, where it fails."""
    arguments = [*(run.quick if quick else run.arguments), "--threads", str(threads), "--json"]
    command = [sys.executable, str(HERE / f"bm_{run.file}.py"), *arguments]
    variables = {**_variables(), **run.variables}
    variables.setdefault("OMP_NUM_THREADS", str(threads))
    print(f"{run.title}, {_threads(threads)} ... ", end="", file=sys.stderr, flush=True)
    began = time.perf_counter()
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        said = " ".join(done.stderr.split()[-40:])
        print(f"failed ({done.returncode}): {said}", file=sys.stderr, flush=True)
        return {}
    print(f"{took:.0f} s", file=sys.stderr, flush=True)
    for line in done.stderr.splitlines():
        if "left out" in line:
            print(f"  {line}", file=sys.stderr, flush=True)
    cases: Cases = json.loads(done.stdout.strip().splitlines()[-1])
    return cases


def show(run: Run, threads: int, cases: Cases) -> None:
    """Print one Markdown table."""
    print(f"\n### {run.title}, {_threads(threads)}\n")
    print("| case | variant | ms | ratio | peak, MB | error |\n|---|---|---|---|---|---|")
    for case, rows in cases.items():
        for name, row in rows.items():
            ms = f"{row['milliseconds']:{'.0f' if row['milliseconds'] >= 100 else '.3g'}}"
            ratio = f"{row['ratio']:.2f} [{row['low']:.2f}–{row['high']:.2f}]"
            error = f"{row['error']:.1e}"
            if "norm_error" in row:
                error += (
                    f" (gradients: norm {row['norm_error']:.1e}, inputs {row['grad_error']:.1e})"
                )
            peak = f"{row['peak_bytes'] / 2**20:.1f}"
            if "units" in row:
                peak += f" ({row['units']:.2f} E·H·4)"
            if "saved_units" in row:
                peak += f", kept {row['saved_units']:.2f}, {row['saved_on_edges']:.2f} on edges"
            if "share" in row:
                peak = f"reads {100 * row['share']:.2f} % of the sample"
            print(f"| {case} | {name} | {ms} | {ratio} | {peak} | {error} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(RUNS))
    parser.add_argument("--threads", type=int, nargs="*", default=[1, os.cpu_count() or 1])
    parser.add_argument("--quick", action="store_true", help="small: to see that all of it runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in options.names:
        if name not in RUNS:
            parser.error(f"no benchmark {name!r} (there are {' '.join(RUNS)})")
    threads = sorted(set(options.threads))
    found: dict[tuple[str, int], Cases] = {}
    every: dict[str, Cases] = {}
    failed: list[str] = []
    isa, machine = _machine()
    runs = [(n, r) for n in options.names or RUNS for r in RUNS[n] if _narrower(r, isa)]
    if not options.json:
        print(f"## {datetime.date.today()}{', quick' * options.quick}\n\n{machine}")
    for name, run in runs:
        for t in threads if run.threads == "each" else threads[-1:]:
            cases = measure(run, t, options.quick)
            if not cases:
                failed.append(run.title)
                continue
            every[f"{run.title}, {_threads(t)}"] = cases
            found.setdefault((name, t), {}).update(cases)
            if not options.json:
                show(run, t, cases)
    if options.json:
        print(json.dumps(every))
    else:
        goals = table(found, not options.quick, isa == "amx")
        if len(goals) > 2:
            print("\n### goals\n", *goals, sep="\n")
        behind = [
            (t, *row) for (name, t), c in found.items() if name == "segment" for row in slower(c)
        ]
        if behind:
            print("\nWhere a peer was faster than a segment operator, its time over ours:\n")
        for t, case, peer, ratio in behind:
            print(f"- {_threads(t)}, {case}: {peer} {ratio:.2f}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _narrower(run: Run, isa: str) -> bool:
    """False for a run with instructions that the processor lacks, or that all runs have."""
    asked = run.variables.get("MESHSIM_ISA")
    return asked is None or isa in ISAS[ISAS.index(asked) + 1 :]


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def _machine() -> tuple[str, str]:
    """What the operators run on, and a line about the machine."""
    done = subprocess.run(
        [sys.executable, "-c", MACHINE],
        env=_variables(),
        capture_output=True,
        text=True,
        check=True,
    )
    isa, line = done.stdout.strip().splitlines()[-2:]
    return isa, f"{line}. Load average {os.getloadavg()[0]:.1f} at the start."


def _variables() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(HERE.parents[1]), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


if __name__ == "__main__":
    main()
