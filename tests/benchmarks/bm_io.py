"""What reading costs: a window of a large sample, a million tetrahedra to their graph, isolation.

Run: python tests/benchmarks/bm_io.py [window] [read] [isolation] [--nodes N] [--frames T]
     [--cubes N] [--files N] [--rounds N] [--threads N] [--json]

window: bytes that leave the files (Linux's count of the process, `rchar`) for random windows of 10
frames of 1,000 nodes, over the bytes of the sample on disk; the first also opens it.
read: a .vtu of tetrahedra, `meshsim.read` and `node_graph` against meshio and np.unique. Each in
fresh processes, one after the other, in turns; the clock starts when the libraries are loaded, and
the memory is the peak over what the process then holds.
isolation: a folder of small mixed files, read by a guarded process against in the same one, with
all that has to be started and loaded for it (but for meshsim), and "again" without.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

import meshsim
from meshsim import Mesh, Sample, Series, write
from meshsim.data import Field, NodeWindows, Schema, Store, Windows
from meshsim.timing import machine
from tests.benchmarks.bm_preprocess import make

PARTS = ("window", "read", "isolation")
PEERS = ("meshio", "meshsim")


class Waves:
    """Frames (N, 3) of smooth waves with noise, made when asked for."""

    def __init__(self, points: np.ndarray, frames: int):
        self.points, self.frames = points.astype(np.float32), frames
        self.shape = (frames, *points.shape)

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, t: int) -> np.ndarray:
        noise = np.random.default_rng(t).standard_normal(self.points.shape, np.float32)
        return np.sin(6 * self.points + np.float32(0.1 * t)) + np.float32(0.01) * noise


def read_bytes() -> int:
    """Bytes that this process has read from files."""
    return int(Path("/proc/self/io").read_text().split()[1])


def counted(work: Callable[[], object]) -> tuple[int, float]:
    """Bytes and seconds of some work."""
    before, began = read_bytes(), time.perf_counter()
    work()
    return read_bytes() - before, time.perf_counter() - began


def window(options: argparse.Namespace, folder: Path) -> tuple[str, dict[str, dict[str, float]]]:
    """Shares of a sample's bytes that windows read."""
    side = max(2, round(options.nodes ** (1 / 3)))
    axes = np.meshgrid(*[np.linspace(0, 1, side)] * 3, indexing="ij")
    points = np.stack(axes, -1).reshape(-1, 3)
    frames = Waves(points, options.frames)
    store = Store.create(folder / "s", Schema([Field("u", "state", components=3)]))
    mesh = Mesh(points, {"tetra": [[0, 1, side, side * side]]})
    store.append(Sample(Series(mesh, range(len(frames)), {"u": frames}), name="a"))
    files = [p for p in (store.path / "samples").rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    raw = 4 * len(frames) * points.size
    out: dict[str, dict[str, float]] = {}
    starts = np.random.default_rng(0).permutation(options.frames - 9)[: options.rounds]
    for blocks in (1, 8, 16):
        made: list[NodeWindows] = []

        def opened(made: list[NodeWindows] = made, blocks: int = blocks) -> None:
            made.append(NodeWindows(store, ["a"], 10, 1000, blocks=blocks))
            made[0][0]

        first, opening = counted(opened)
        found = [counted(lambda i=int(i), made=made: made[0][i]) for i in starts]  # type: ignore[misc]
        share = max(b for b, _ in found) / size
        out[f"1,000 nodes in {blocks} blocks"] = {
            "milliseconds": 1e3 * median(s for _, s in found),
            "bytes": max(b for b, _ in found),
            "share": share,
            "share_of_values": max(b for b, _ in found) / raw,
            "share_first": first / size,
            "milliseconds_first": 1e3 * opening,
        }
    whole = Windows(store, ["a"], 10, cache_bytes=0)
    found = [counted(lambda i=int(i): whole.load(i)) for i in starts[:3]]  # type: ignore[misc]
    out["all nodes"] = {
        "milliseconds": 1e3 * median(s for _, s in found),
        "bytes": max(b for b, _ in found),
        "share": max(b for b, _ in found) / size,
        "share_of_values": max(b for b, _ in found) / raw,
    }
    for row in out.values():
        row["ratio"] = row["low"] = row["high"] = (
            out["all nodes"]["milliseconds"] / row["milliseconds"]
        )
        row |= {"error": 0.0, "peak_bytes": 0.0}  # not measured; what is read is what is stored
    sizes = f"{len(points)} nodes, {len(frames)} times"
    return f"window, {sizes}, {size / 1e6:.0f} MB in {len(files)} files", out


def box(cubes: int) -> Mesh:
    """6 · cubes³ tetrahedra: each cube in six, about its diagonal."""
    n = cubes + 1
    axes = torch.meshgrid(*[torch.linspace(0, 1, n, dtype=torch.float64)] * 3, indexing="ij")
    points = torch.stack(axes, -1).reshape(-1, 3)
    at = torch.arange(cubes)
    base = (at[:, None, None] * n * n + at[:, None] * n + at).reshape(-1, 1)
    one, two, three = n * n, n, 1
    paths = [(a, b) for a in (one, two, three) for b in (one, two, three) if a != b]
    last = one + two + three
    cells = [torch.cat([base, base + a, base + a + b, base + last], 1) for a, b in paths]
    wave = torch.sin(6 * points)
    return Mesh(points, {"tetra": torch.stack(cells, 1).reshape(-1, 4)}, {"u": wave})


def one(peer: str, file: Path) -> dict[str, float]:
    """Time and peak of one peer in this process."""
    if peer == "meshio":
        import meshio
    else:
        from meshsim.graph import node_graph

        small = box(2)
        write(small, file.with_name(f"small{file.suffix}"))
        node_graph(meshsim.read(file.with_name(f"small{file.suffix}"), trust=True))
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.perf_counter()
    if peer == "meshio":
        mesh = meshio.read(file)
        cells = mesh.cells_dict["tetra"]
        pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        ends = np.sort(np.concatenate([cells[:, pair] for pair in pairs]), 1)
        edges = np.unique(ends, axis=0)
        count = len(np.concatenate([edges, edges[:, ::-1]]))
    else:
        graph = node_graph(meshsim.read(file, trust=True))
        count = graph.edge_index.shape[1]
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "milliseconds": 1e3 * seconds,
        "peak_bytes": max(after, before) - held,
        "peak_over_file": (max(after, before) - held) / file.stat().st_size,
        "edges": count,
    }


def read(options: argparse.Namespace, folder: Path) -> tuple[str, dict[str, dict[str, float]]]:
    """A large file to its graph, against meshio."""
    file = folder / "box.vtu"
    write(box(options.cubes), file)
    runs = turns(PEERS, options.rounds, file, options.threads)
    if len({run["edges"] for found in runs.values() for run in found}) > 1:
        raise SystemExit("the peers found different edges")
    out = {}
    for peer, found in runs.items():
        pairs = zip(runs["meshio"], found, strict=True)
        ratios = [a["milliseconds"] / b["milliseconds"] for a, b in pairs]
        row = {key: median(run[key] for run in found) for key in found[0]}
        row |= {"ratio": median(ratios), "low": min(ratios), "high": max(ratios), "error": 0.0}
        out[peer] = row
    size = file.stat().st_size / 1e6
    return f"read, {6 * options.cubes**3} tetrahedra, {size:.0f} MB", out


def folder_of(how: str, folder: Path) -> dict[str, float]:
    """Time to read all files of a folder in this process, or by its guarded one."""
    found = sorted(p for p in folder.glob("*/*") if p.suffix != ".h5")  # those are of .xdmf files
    took = []
    for _ in range(2):
        began = time.perf_counter()
        for path in found:
            meshsim.read(path, trust=how == "plain")
        took.append(1e3 * (time.perf_counter() - began))
    return {"milliseconds": took[0], "again": took[1]}


def isolation(options: argparse.Namespace, folder: Path) -> tuple[str, dict[str, dict[str, float]]]:
    """A folder of small files, read in this process and in a guarded one."""
    make(folder, options.files, options.scale)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    runs = turns(("plain", "guarded"), options.rounds, folder, options.threads)
    out = {}
    for how, found in runs.items():
        out[how] = {key: median(run[key] for run in found) for key in found[0]}
        for key, label in (("milliseconds", "cost"), ("again", "cost again")):
            pairs = zip(found, runs["plain"], strict=True)
            ratios = [mine[key] / plain[key] for mine, plain in pairs]
            out[how][label] = median(ratios)
            out[how] |= {f"{label}, low": min(ratios), f"{label}, high": max(ratios)}
    return f"isolation, {options.files} files, {size:.1f} MB", out


def turns(
    names: tuple[str, ...], rounds: int, place: Path, threads: int
) -> dict[str, list[dict[str, float]]]:
    """What each variant measures in processes of its own, one after the other, in turns."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for k in range(rounds):
        for name in names[:: 1 if k % 2 else -1]:
            command = [sys.executable, "-m", "tests.benchmarks.bm_io", "--one", name]
            command += ["--place", str(place), "--threads", str(threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs[name].append(json.loads(done.stdout))
    return runs


def main() -> None:
    known = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known.add_argument("parts", nargs="*", help=", ".join(PARTS))
    known.add_argument("--nodes", type=int, default=1_000_000)
    known.add_argument("--frames", type=int, default=80)
    known.add_argument("--cubes", type=int, default=55)
    known.add_argument("--files", type=int, default=200)
    known.add_argument("--rounds", type=int, default=7)
    known.add_argument("--threads", type=int, default=1)
    known.add_argument("--json", action="store_true")
    known.add_argument("--scale", type=float, default=0.5, help="of the meshes of isolation")
    known.add_argument("--one", help=argparse.SUPPRESS)
    known.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = known.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        work = one if options.one in PEERS else folder_of
        print(json.dumps(work(options.one, options.place)))
        return
    if unknown := set(options.parts) - set(PARTS):
        known.error(f"unknown part {unknown.pop()!r} (known: {', '.join(PARTS)})")
    found = {}
    if not options.json:
        print(f"{machine()}, {options.threads} threads")
    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            case, rows = {"window": window, "read": read, "isolation": isolation}[part](
                options, Path(folder)
            )
        found[case] = rows
        if not options.json:
            print(case)
            for name, row in rows.items():
                print(f"  {name:26s}", ", ".join(f"{k} {v:,.4g}" for k, v in row.items()))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
