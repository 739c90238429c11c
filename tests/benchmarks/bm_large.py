"""Inference of many message blocks on a large mesh: peak memory over the inputs, time a block.

Run: python tests/benchmarks/bm_large.py [--nodes N] [--blocks 15] [--threads N]
     [--only meshsim PyG] [--json]

Each variant runs in a process of its own, so that its peak is its own; the ratio is of times one
after the other, not interleaved. A variant is left out, and said to be, where less memory is free
than it is known to need.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from meshsim.benchmarks import Messages
from meshsim.nn import MessageBlock, pass_messages
from meshsim.ops.adjacency import adjacency
from meshsim.timing import machine, relative_error, require
from tests.benchmarks.meshes import tetra_graph

EXACT = "meshsim float64"
VARIANTS = (EXACT, "meshsim", "meshsim bf16 products", "PyG")
ROOM = {"PyG": 8.5, EXACT: 6.0}  # E·H·4 bytes, inputs included; 3 for the others
GIB = 2**30


def free_bytes() -> int:
    """Memory that a new process can have."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def error(y: Tensor, path: Path, exact: bool) -> float:
    """Relative error of node values against those of the process in float64, which saves them."""
    if exact:
        torch.save(y, path)
    return relative_error([y], [torch.load(path)]) if path.exists() else float("nan")


def one(options: argparse.Namespace, variant: str) -> dict[str, float]:
    """Time and peak of one variant in this process."""
    edges, nodes = torch.load(options.graph)
    torch.manual_seed(0)
    blocks = [MessageBlock(options.width, 2, "relu") for _ in range(options.blocks)]
    x, e = torch.randn(nodes, options.width), torch.randn(edges.shape[1], options.width)
    if variant == EXACT:
        x, e, blocks = x.double(), e.double(), [block.double() for block in blocks]
    plain = [Messages(block.edge, block.node) for block in blocks]
    small = torch.cat([x[:64], x[:64]])
    warm = torch.arange(128).repeat(2, 1)

    def run(x: Tensor, e: Tensor, at: Tensor) -> Tensor:
        if variant == "PyG":
            for block in plain:
                x, e = block(x, e, at)
            return x
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in variant):
            return pass_messages(blocks, x, e, adjacency(at, len(x)))[0]

    with torch.no_grad():
        run(small, small, warm)  # loads libraries: not the network's memory
        if variant != "PyG":
            adjacency(edges, nodes)  # part of the graph
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        began = time.perf_counter()
        y = run(x, e, edges)
        seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if after <= before * 1024:
        raise SystemExit("the peak lies before the network: nothing was measured")
    return {
        "milliseconds": 1e3 * seconds,
        "milliseconds_a_block": 1e3 * seconds / options.blocks,
        "peak_bytes": after - held,
        "units": (after - held) / (4 * e.numel()),
        "error": error(y, options.graph.with_name("exact.pt"), variant == EXACT),
    }


def children(options: argparse.Namespace, folder: Path, edges: int) -> dict[str, dict[str, float]]:
    """The figures of each variant, from a process of its own."""
    rows = {}
    for variant in options.only:
        needed = ROOM.get(variant, 3.0) * edges * options.width * 4
        if free_bytes() < needed:
            said = f"{free_bytes() / GIB:.0f} GB free, {needed / GIB:.0f} wanted"
            print(f"{variant}: left out, {said}", file=sys.stderr)
            continue
        command = [sys.executable, __file__, "--one", variant, "--graph", str(folder / "graph.pt")]
        command += [f"--{name}={getattr(options, name)}" for name in ("blocks", "width", "threads")]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{variant}: ended with {done.returncode}", file=sys.stderr)
            continue
        rows[variant] = json.loads(done.stdout)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=355_000, help="asked of gmsh")
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    require(["edge_block", "node_block"])
    if options.one:
        print(json.dumps(one(options, options.one)))
        return
    edges, nodes = tetra_graph(options.nodes)
    case = f"{nodes} nodes, {edges.shape[1]} edges, {options.blocks} blocks, inference"
    with tempfile.TemporaryDirectory() as folder:
        torch.save((edges, nodes), Path(folder) / "graph.pt")
        rows = children(options, Path(folder), edges.shape[1])
    base = rows.get("PyG", rows.get("meshsim"))
    for row in rows.values():
        row["ratio"] = row["low"] = row["high"] = base["milliseconds"] / row["milliseconds"]
    if options.json:
        print(json.dumps({case: rows}))
        return
    print(f"{machine()}, {options.threads} threads")
    print(case)
    for name, row in rows.items():
        print(
            f"  {name:24s}{row['milliseconds_a_block']:9.0f} ms a block  x {row['ratio']:5.2f}"
            f"  peak {row['peak_bytes'] / GIB:6.2f} GB over the inputs, {row['units']:.2f} E·H·4"
            f"  error {row['error']:.1e}"
        )


if __name__ == "__main__":
    main()
