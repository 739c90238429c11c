"""Mutated files of every format that we read ourselves: read, or refused in one line, nothing else.

    python tests/verify/fuzz.py [--format NAME ...] [--count 2000] [--seed 0] [--keep DIR]

Small files of our own making are changed at random (bytes, pieces cut out, doubled or cut off,
numbers made huge, negative or none, lines exchanged; in HDF5 and .npz also values and shapes, in
JSON entries) and read through the guarded child, as the shell reads them, with ten seconds and the
usual memory each.
Counted as wrong: a reader that crashes, takes longer or asks for more memory than it is allowed,
an error that is no `InputError` of one line, a mesh whose indices are out of range. "vague" are
refused with a line that does not say what is wrong; "contained" are crashes, hangs and memory of
VTK's readers, which cost the child and one line. Exit code 1 where anything is wrong; --keep
keeps the files that were.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests" / "io"))

from meshsim.check import InputError  # noqa: E402
from meshsim.io import guard, read  # noqa: E402
from meshsim.io.child import UNKNOWN  # noqa: E402
from meshsim.sample import Sample  # noqa: E402
from meshsim.series import Series  # noqa: E402
from tests.io.fuzz_seeds import SEEDS, VTK  # noqa: E402
from tests.io.mutations import changed  # noqa: E402

SECONDS = 10.0
BAD = ("crashed", "longer than", "more memory", "too much memory", "ended (exit", "nonsense")


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
    torch.manual_seed(seed)  # what a format's seeds hold depends on no other format
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
                changed(file, whole[file], rng)
                kind, line = outcome(path)
                if kind == "wrong" and name in VTK and any(word in line for word in BAD):
                    kind = "contained"
                found[kind] += 1
                if kind == "wrong":
                    print(f"{name} {k} {n} {file.name}: {line[:300]}", flush=True)
                    if keep is not None:
                        shutil.copytree(folder, keep / f"{name}_{k}_{n}", dirs_exist_ok=True)
                for other, data in whole.items():
                    if other == file:
                        other.write_bytes(data)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", nargs="+", default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None)
    given = parser.parse_args()
    guard.SECONDS = SECONDS
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
