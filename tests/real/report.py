"""Every mesh file of other people against a table of what must come of it: right, refused, wrong.

Run: python tests/real/report.py [--json] [--formats su2 cgns ...]

`expected.tsv` beside this file says for each file whether it must open or be refused and why, and
how many points and cells of the highest dimension it has; these counts come from the file's header
or from another reader, never from ours, and stand before a reader is written. A count that no
other source gives, or that merging changes, is left empty and not compared.

A file is right if it opens with these counts, refused if it had to be and one line says why, and
wrong else. The files are not part of the project: MESHSIM_REAL_DATA names their folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import meshsim
from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("MESHSIM_REAL_DATA", HERE.parents[2] / "shared" / "data"))
SECONDS = 120.0


def expected() -> list[dict[str, str]]:
    """The table's rows."""
    with open(HERE / "expected.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def first_mesh(found: Mesh | Series | Sample) -> list[Mesh]:
    """The mesh of each branch, at the first time."""
    parts = list(found.branches.values()) if isinstance(found, Sample) else [found]
    return [part.frame(0) if isinstance(part, Series) else part for part in parts]


def judged(row: dict[str, str]) -> tuple[str, str]:
    """("right" | "refused" | "wrong", what was found)."""
    path = DATA / row["path"]
    try:
        meshes = first_mesh(meshsim.read(path))
    except InputError as error:
        said = str(error)
        if row["outcome"] != "refuse":
            return "wrong", said
        fine = "\n" not in said and path.name in said and "Error" not in said
        return ("refused", said) if fine else ("wrong", f"not a clear line: {said}")
    found = {
        "points": sum(m.n_points for m in meshes),
        "cells": sum(m.n_cells for m in meshes),
    }
    told = f"{found['points']} points, {found['cells']} cells"
    if row["outcome"] == "refuse":
        return "wrong", f"opened ({told}), had to be refused: {row['why refused']}"
    for name, count in found.items():
        if row[name] and int(row[name]) != count:
            return "wrong", f"{told}; expected {row[name]} {name} ({row['counted by']})"
    return "right", told


def kind(path: str) -> str:
    """The suffix that says the format; "openfoam" for a case."""
    names = [s.lower() for s in Path(path).suffixes if s.lower() not in (".gz", ".xz")]
    return names[-1][1:] if names else "openfoam"


def report(formats: list[str]) -> dict[str, Any]:
    """Counts for each format, and each file that is wrong."""
    table: dict[str, Counter[str]] = {}
    wrong = []
    for row in expected():
        name = kind(row["path"])
        if formats and name not in formats:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdict, found = judged(row)
        counts = table.setdefault(name, Counter(right=0, refused=0, wrong=0))
        counts[verdict] += 1
        if verdict == "wrong":
            wrong.append({"path": row["path"], "found": found.replace(str(DATA), "")})
    total = sum(table.values(), Counter())
    opened = sum(
        r["outcome"] == "open" for r in expected() if not formats or kind(r["path"]) in formats
    )
    return {
        "formats": {name: dict(counts) for name, counts in sorted(table.items())},
        "all": {name: total[name] for name in ("right", "refused", "wrong")},
        "share of the valid that open": total["right"] / max(opened, 1),
        "wrong": wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--formats", nargs="+", default=[], help="suffixes; all by default")
    given = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: {DATA} is not there (set MESHSIM_REAL_DATA)")
        return 0
    found = report(given.formats)
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        print(f"{'format':10s} right refused wrong")
        for name, row in [*found["formats"].items(), ("all", found["all"])]:
            print(f"{name:10s} {row['right']:5d} {row['refused']:7d} {row['wrong']:5d}")
        for row in found["wrong"]:
            print(f"wrong: {row['path']}: {row['found']}")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
