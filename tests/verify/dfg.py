"""The DFG benchmark to convergence: three meshes, three steps, against FEATFLOW's level 6.

    python tests/verify/dfg.py [-o DIR]

Asserts 2D-1 inside the benchmark's bands, and 2D-2 on the finest mesh and step within
0.5 / 1 / 1 / 0.5 % of the reference (cd max, cl max, cl min, Strouhal), errors falling under
refinement of the mesh and of the step.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "datasets" / "dfg_cylinder"))
import prepare

BANDS = {"cd": (5.57, 5.59), "cl": (0.0104, 0.0110), "dp": (0.1172, 0.1176)}
GOALS = {"cd_max": 0.005, "cl_max": 0.01, "cl_min": 0.01, "strouhal": 0.005}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/dfg"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    found = prepare.convergence(given.output)
    print(json.dumps(found, indent=2))
    steady = found["2D-1"][-1]
    failures = [k for k, (low, high) in BANDS.items() if not low <= steady[k] <= high]
    meshes, finest = found["runs"][:3], found["runs"][2]["level"]
    steps = sorted((r for r in found["runs"] if r["level"] == finest), key=lambda r: -r["dt"])
    for key, goal in GOALS.items():
        last = abs(steps[-1]["errors"][key])
        if last > goal:
            failures.append(f"{key}: {last:.2%} off, goal {goal:.1%}")
        for what, rows in (("mesh", meshes), ("step", steps)):
            errors = [abs(row["errors"][key]) for row in rows]
            if not errors[0] > errors[1] > errors[2]:
                failures.append(f"{key}: errors do not fall with the {what}: {errors}")
    print("holds" if not failures else f"DOES NOT HOLD: {failures}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
