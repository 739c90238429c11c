"""`preprocess` with one worker and with two, side by side, on a folder of mixed files.

Run: python tests/benchmarks/bm_preprocess.py [--files N] [--scale S] [--rounds N] [--json]
The files (vtu, stl, su2, msh, xdmf, npz series, OpenFOAM cases) differ in size. The ratio is of
the throughput with two workers over that with one in the same round, with the start of the workers
(but for the server that they are forked from, which the first round starts). Where other programs
use the cores, it is a lower bound.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import meshsim
from meshsim.benchmarks import cube
from meshsim.data import Store, preprocess
from meshsim.io import guard
from meshsim.timing import Figures, against, interleave
from tests.benchmarks.report import parse, parser, report

KINDS = ("vtu", "stl", "su2", "msh", "xdmf", "npz", "foam")


def box(n: int, seed: int) -> meshsim.Mesh:
    """A cube of n³ hexahedra with noise on its points and in its fields."""
    draw = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n + 1.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    grid += 0.1 * draw.normal(size=grid.shape)
    corner = np.arange((n + 1) ** 3).reshape(n + 1, n + 1, n + 1)[:-1, :-1, :-1].reshape(-1)
    x, y, z = (n + 1) ** 2, n + 1, 1
    steps = np.array([0, x, x + y, y, z, x + z, x + y + z, y + z])
    fields = {"p": draw.normal(size=len(corner)), "U": draw.normal(size=(len(corner), 3))}
    return meshsim.Mesh(grid, {"hexahedron": corner[:, None] + steps}, cell_fields=fields)


def tetrahedra(n: int, seed: int) -> meshsim.Mesh:
    """A cube of 6 n³ tetrahedra with fields at its points."""
    cells, m = cube(n)
    draw = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n + 1.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    grid += 0.05 * draw.normal(size=grid.shape)
    fields = {"p": draw.normal(size=m), "U": draw.normal(size=(m, 3))}
    return meshsim.Mesh(grid, {"tetra": cells}, fields)


def sheet(n: int, seed: int) -> meshsim.Mesh:
    """A wavy surface of 2 n² triangles."""
    draw = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1))
    z = 0.1 * np.sin(6 * x + draw.uniform()) * np.cos(5 * y)
    i = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).reshape(-1)
    faces = np.concatenate(
        [np.stack([i, i + 1, i + n + 2], 1), np.stack([i, i + n + 2, i + n + 1], 1)]
    )
    points = np.stack([x, y, z], -1).reshape(-1, 3)
    return meshsim.Mesh(points, {"triangle": faces})


def make(folder: Path, count: int, scale: float) -> None:
    """The folder; a file's kind goes round, its size by a draw that is the same every time."""
    draw = np.random.default_rng(0)
    for k in range(count):
        kind, size = KINDS[k % len(KINDS)], scale * float(draw.lognormal(0.0, 0.4))
        n = max(2, round(12 * size))
        path = folder / kind / f"{kind}_{k:03d}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "stl":
            meshsim.write(sheet(6 * n, k), path)
        elif kind == "npz":
            mesh, frames = sheet(2 * n, k), max(2, n)
            values = np.random.default_rng(k).normal(size=(frames, mesh.n_points, 2))
            meshsim.write(meshsim.Series(mesh, np.arange(float(frames)), {"u": values}), path)
        elif kind == "foam":
            case(path.with_suffix(""), box(n, k))
        else:
            meshsim.write(tetrahedra(n, k) if kind in ("su2", "msh") else box(n, k), path)


def case(folder: Path, mesh: meshsim.Mesh) -> None:
    """An OpenFOAM case of a mesh: its faces, and a scalar at one time."""
    faces = mesh.faces
    (folder / "constant" / "polyMesh").mkdir(parents=True)
    (folder / "system").mkdir()
    (folder / "0").mkdir()

    def put(path: str, kind: str, body: str, head: str = "") -> None:
        header = (
            f"FoamFile {{ version 2.0; format ascii; class {kind}; object {Path(path).name}; }}"
        )
        (folder / path).write_text(f"{header}\n{head}{body}\n")

    def listed(rows: list[str]) -> str:
        return f"{len(rows)}\n(\n" + "\n".join(rows) + "\n)"

    inner = int((faces.neighbour >= 0).sum())
    order = np.argsort((faces.neighbour < 0).numpy(), kind="stable")
    owner, neighbour = faces.owner.numpy()[order], faces.neighbour.numpy()[order]
    offsets, nodes = faces.offsets.numpy(), faces.nodes.numpy()
    corners = [nodes[offsets[f] : offsets[f + 1]] for f in order]
    poly = "constant/polyMesh/"
    put(
        f"{poly}points",
        "vectorField",
        listed([f"({a} {b} {c})" for a, b, c in mesh.points.tolist()]),
    )
    put(f"{poly}faces", "faceList", listed([f"{len(f)}({' '.join(map(str, f))})" for f in corners]))
    put(f"{poly}owner", "labelList", listed(list(map(str, owner))))
    put(f"{poly}neighbour", "labelList", listed(list(map(str, neighbour[:inner]))))
    patch = f"wall {{ type wall; nFaces {len(owner) - inner}; startFace {inner}; }}"
    put(f"{poly}boundary", "polyBoundaryMesh", f"1\n(\n{patch}\n)")
    put("system/controlDict", "dictionary", "startTime 0;")
    values = listed([str(v) for v in mesh.cell_fields["p"].tolist()])
    body = f"internalField nonuniform List<scalar> {values};\nboundaryField"
    body += " { wall { type zeroGradient; } }"
    put("0/p", "volScalarField", body, "dimensions [0 0 0 0 0 0 0];\n")


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    with tempfile.TemporaryDirectory(prefix="meshsim-") as place:
        folder = Path(place) / "in"
        make(folder, options.files, options.scale)
        sources = [folder / kind for kind in KINDS if (folder / kind).exists()]
        prints: set[str] = set()

        def work(workers: int) -> Any:
            path = Path(place) / f"store-{workers}"
            guard.close()  # as in a process that has just begun
            shutil.rmtree(path, ignore_errors=True)
            done = preprocess(sources, path, workers=workers)
            if done.failed:
                raise SystemExit(done.failed[0][1])
            prints.add(Store(path).fingerprint())

        took = interleave(
            {"one worker": lambda: work(1), "two workers": lambda: work(2)},
            options.rounds,
            options.seconds,
        )
        if len(prints) != 1:
            raise SystemExit("the stores differ")
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
        rows = against(took, "one worker")
        for row in rows.values():
            row |= {"error": 0.0, "peak_bytes": 0.0}
        yield f"{options.files} files, {size:.0f} MB", rows


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    known = parser(__doc__, seconds=300.0)
    known.set_defaults(rounds=3)
    known.add_argument("--files", type=int, default=200)
    known.add_argument("--scale", type=float, default=1.5, help="of the meshes' sides")
    options = parse(known)
    torch.set_num_threads(1)  # as in a worker
    report(options, cases(options), "a store and its samples' hashes the same")


if __name__ == "__main__":
    main()
