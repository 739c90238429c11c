"""Mutated files of every format that we read ourselves: read, or refused in one line, nothing else.

    python tests/verify/fuzz.py [--format NAME ...] [--count 2000] [--seed 0] [--keep DIR]

Small files of our own making are changed at random (bytes, pieces cut out, doubled or cut off,
numbers made huge, negative or none, lines exchanged; in HDF5 also values and shapes) and read
through the guarded child, as the shell reads them, with ten seconds and the usual memory each.
Counted as wrong: a reader that crashes, takes longer or asks for more memory than it is allowed,
an error that is no `InputError` of one line, a mesh whose indices are out of range. "vague" are
refused with a line that does not say what is wrong; "contained" are crashes, hangs and memory of
VTK's readers, which cost the child and one line. Exit code 1 where anything is wrong; --keep
keeps the files that were.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests" / "io"))

from meshsim.check import InputError  # noqa: E402
from meshsim.io import guard, read, write  # noqa: E402
from meshsim.io.child import UNKNOWN  # noqa: E402
from meshsim.sample import Sample  # noqa: E402
from meshsim.series import Series  # noqa: E402
from tests import trajectory_files  # noqa: E402
from tests.helpers import MESHES  # noqa: E402
from tests.io import (  # noqa: E402
    test_abaqus,
    test_ensight,
    test_exodus,
    test_fluent,
    test_foam,
    test_med,
    test_nastran,
    test_unv,
)

SECONDS = 10.0
BAD = ("crashed", "longer than", "more memory", "too much memory", "ended (exit", "nonsense")
NUMBER = re.compile(rb"-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
VALUES = (
    b"-1",
    b"0",
    b"99999999999",
    b"2147483648",
    b"-2147483649",
    b"nan",
    b"1e400",
    b"",
    b"x",
    b"7",
)


def plain(name: str, suffix: str) -> Callable[[Path], Path]:
    """A file that `write` makes of one of the tests' meshes."""

    def make(folder: Path) -> Path:
        mesh = MESHES[name]
        fields = {"p": torch.rand(mesh.n_points), "v": torch.rand(mesh.n_points, mesh.dim)}
        write(mesh.replace(point_fields=fields, cell_fields={}), folder / f"a.{suffix}")
        return folder / f"a.{suffix}"

    return make


def text(suffix: str, said: Callable[[], str]) -> Callable[[Path], Path]:
    """A file with this text."""

    def make(folder: Path) -> Path:
        (folder / f"a.{suffix}").write_text(said())
        return folder / f"a.{suffix}"

    return make


def unv() -> str:
    mesh = MESHES["mixed_solid"]
    blocks = [(b.type, b.nodes.tolist()) for b in mesh.cells]
    group = test_unv.dataset(2467, test_unv.group(1, "inlet", [(8, 1), (8, 2)]))
    return str(test_unv.nodes(mesh.points) + test_unv.cells(blocks) + group)


def bdf() -> str:
    return str(test_nastran.bulk(test_nastran.GRIDS, test_nastran.SOLID))


def inp() -> str:
    return test_abaqus.NODES + test_abaqus.BRICKS + "*Nset, nset=low\n1, 2\n"


def avs() -> str:
    return (
        "5 2 1 1 0\n1 0 0 0\n2 1 0 0\n3 1 1 0\n4 0 1 0\n5 2 0 0\n1 1 quad 1 2 3 4\n"
        "2 1 tri 2 5 3\n1 1\np, Pa\n1 0.5\n2 1.5\n3 2.5\n4 3\n5 4\n1 1\nq, m\n1 7\n2 8\n"
    )


def med(folder: Path) -> Path:
    with h5py.File(folder / "a.med", "w") as file:
        test_med.write_mesh(file, MESHES["mixed_solid"])
    return folder / "a.med"


def exodus(folder: Path) -> Path:
    test_exodus.column(folder / "a.exo")
    return folder / "a.exo"


def fluent(binary: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "a.msh").write_bytes(test_fluent.fluent(binary=binary))
        return folder / "a.msh"

    return make


def ensight(binary: bool) -> Callable[[Path], Path]:
    return lambda folder: test_ensight.case(folder, binary)


def foam(binary: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        case = folder / "case"
        mesh = MESHES["polyhedra"]
        test_foam.case(case, mesh, binary)
        test_foam.field(case, "p", "0", np.arange(float(mesh.n_cells)), binary)
        return case

    return make


def trajectory(folder: Path) -> Path:
    trajectory_files.cylinder_flow(folder, "train", 1, times=3)
    return folder / "train.tfrecord"


def pvd(folder: Path) -> Path:
    mesh = MESHES["channel"]
    write(Series(mesh, [0.0, 1.0], {"v": torch.rand(2, mesh.n_points)}), folder / "a.pvd")
    return folder / "a.pvd"


SEEDS: dict[str, tuple[Callable[[Path], Path], ...]] = {
    "msh": (plain("mixed_solid", "msh"), plain("channel", "msh")),
    "su2": (plain("mixed_solid", "su2"), plain("channel", "su2")),
    "cgns": (plain("polyhedra", "cgns"), plain("mixed_solid", "cgns")),
    "xdmf": (plain("mixed_solid", "xdmf"), plain("polygons", "xdmf")),
    "npz": (plain("polyhedra", "npz"),),
    "stl": (plain("cube_surface", "stl"),),
    "obj": (plain("cube_surface", "obj"),),
    "off": (plain("cube_surface", "off"),),
    "ply": (plain("cube_surface", "ply"),),
    "openfoam": (foam(False), foam(True)),
    "fluent": (fluent(False), fluent(True)),
    "unv": (text("unv", unv),),
    "med": (med,),
    "bdf": (text("bdf", bdf),),
    "inp": (text("inp", inp),),
    "avs": (text("avs", avs),),
    "tfrecord": (trajectory,),
    # of VTK, which may crash: the child is what holds it
    "vtu": (plain("polyhedra", "vtu"), plain("mixed_solid", "vtu")),
    "vtk": (plain("mixed_solid", "vtk"),),
    "pvd": (pvd,),
    "ensight": (ensight(False), ensight(True)),
    "exodus": (exodus,),
}
VTK = ("vtu", "vtk", "pvd", "ensight", "exodus")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three changes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not data:
            return data
        at, n = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 40, 400))
        kind = rng.randrange(9)
        if kind == 0:
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + rng.randbytes(min(n, 8)) + data[at + min(n, 8) :]
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            data = data[:at] + data[at + n :]
        elif kind == 4:
            data = data[: at + n] + data[at:]
        elif kind == 5:
            data = (
                data[:at]
                + rng.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 8))
                + data[at + 4 :]
            )
        elif kind == 6:
            lines = data.split(b"\n")
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            data = b"\n".join(lines)
        else:
            found = list(NUMBER.finditer(data))
            if found:
                one = rng.choice(found)
                data = data[: one.start()] + rng.choice(VALUES) + data[one.end() :]
    return data


def hdf5_changed(path: Path, rng: random.Random) -> None:
    """Change one data set of an HDF5 file: its values, its length, or its being there."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(
            lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None
        )
        name = rng.choice(names)
        values = file[name][()]
        held = dict(file[name].attrs)
        del file[name]
        kind = rng.randrange(5)
        if kind == 0:
            return
        values = np.asarray(values)
        if values.dtype.kind in "iuf" and values.size:
            flat = values.reshape(-1).copy()
            if kind == 1:
                odd = np.array([rng.choice((-1, 0, 10**9, 2**31 - 1, 3))])
                flat[rng.randrange(flat.size)] = odd.astype(flat.dtype)[0]
                values = flat.reshape(values.shape)
            elif kind == 2:
                values = flat[: rng.randrange(flat.size + 1)]
            elif kind == 3:
                values = np.concatenate([flat, flat])
            else:
                values = flat.astype(rng.choice(("f8", "i1", "S4")))
        file[name] = values
        for key, value in held.items():
            file[name].attrs[key] = value


def outcome(path: Path) -> tuple[str, str]:
    """What reading a file comes to: its kind, and the line."""
    try:
        found = read(path)
        branch = found.branch if isinstance(found, Sample) else found
        if isinstance(branch, Series):
            branch.frame(len(branch) - 1)
        mesh = branch.mesh if isinstance(branch, Series) else branch
        for block in mesh.cells:
            block.check(mesh.n_points)
        len(mesh.faces)
        return "read", ""
    except InputError as error:
        line = str(error)
        if "\n" in line or len(line) > 900 or any(word in line for word in BAD):
            return "wrong", line
        return ("vague" if UNKNOWN in line else "refused"), line
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {error}"


def fuzz(name: str, count: int, seed: int, keep: Path | None) -> Counter[str]:
    """Read `count` mutated files of a format."""
    rng, found = random.Random(f"{name} {seed}"), Counter[str]()
    with tempfile.TemporaryDirectory() as where:
        for k, make in enumerate(SEEDS[name]):
            folder = Path(where) / str(k)
            folder.mkdir()
            path = make(folder)
            kind, line = outcome(path)
            if kind != "read":
                raise SystemExit(f"{name}: the file to begin with is not read: {line}")
            files = sorted(p for p in folder.rglob("*") if p.is_file())
            whole = {file: file.read_bytes() for file in files}
            for n in range(count // len(SEEDS[name])):
                file = rng.choice(files)
                if h5py.is_hdf5(file) and rng.random() < 0.5:
                    hdf5_changed(file, rng)
                else:
                    file.write_bytes(mutated(whole[file], rng))
                kind, line = outcome(path)
                if kind == "wrong" and name in VTK and any(word in line for word in BAD):
                    kind = "contained"
                found[kind] += 1
                if kind == "wrong":
                    print(f"{name} {k} {n} {file.name}: {line[:300]}", flush=True)
                    if keep is not None:
                        shutil.copytree(folder, keep / f"{name}_{k}_{n}", dirs_exist_ok=True)
                for changed, data in whole.items():
                    if changed == file:
                        changed.write_bytes(data)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", nargs="+", default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None)
    given = parser.parse_args()
    guard.SECONDS = SECONDS
    torch.manual_seed(given.seed)
    head = ("format", "read", "refused", "vague", "contained", "wrong", "s")
    rows, wrong = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)], 0
    for name in given.format:
        began = time.perf_counter()
        found = fuzz(name, given.count, given.seed, given.keep)
        took = time.perf_counter() - began
        counts = " | ".join(str(found[kind]) for kind in head[1:-1])
        rows.append(f"| {name}{' (VTK)' if name in VTK else ''} | {counts} | {took:.0f} |")
        print(rows[-1], flush=True)
        wrong += found["wrong"]
    print("\n".join(rows))
    print("nothing is wrong" if not wrong else f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
