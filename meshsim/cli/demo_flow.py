"""The demo of a flow in time: vortex streets that the model never saw, rolled out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshsim.cli.demo_stages import Job, keep, learn, stage

if TYPE_CHECKING:
    from meshsim.data import Store
    from meshsim.simulator import Simulator

STAGES = ("generate", "preprocess", "train", "roll out", "draw")
STORE = "flows.zarr"
METRICS = ("one_step", "rollout_50", "rollout_all")
CAPTIONS = (
    "Velocity magnitude after the last step of a rollout: truth, prediction, error",
    "The whole rollout beside the truth",
)


def words(settings: Mapping[str, Any], result: dict[str, Any]) -> list[str]:
    """What was done, in sentences for the report."""
    parts, rollout = settings["generate"], settings["rollout"]
    return [
        f"The Taylor–Hood solver computed {parts['train']['flows']} flows past a cylinder at"
        f" different inflow velocities; a MeshGraphNet with {result['parameters']:,} parameters"
        " learned them on this machine.",
        f"It was then started from one frame of each of {parts['test']['flows']} flows at inflows"
        f" it never saw and ran {rollout['steps']} steps on its own. Errors are root mean squares"
        " of both velocity components (m/s).",
        "The baselines: persistence repeats the starting frame; the time mean is the flow's own"
        " mean, which no forecast could know; the last period is the one before the start,"
        " repeated: it needs a second of known history, which the model does not get, and on a"
        " flow that is exactly periodic it is hard to beat.",
    ]


def run(job: Job) -> dict[str, Any]:
    """Do all of the demo and return what it writes into `report.json`."""
    from meshsim import render
    from meshsim.cli.generate import load_recipe
    from meshsim.cli.progress import bar
    from meshsim.data import Store
    from meshsim.simulator import Simulator

    began = time.monotonic()
    out, settings, flows = job.out, job.settings, job.out / "flows"
    parts = settings["generate"]
    total = sum(options["flows"] for options in parts.values())
    stage(STAGES, 1, f"{total} flows past a cylinder with the Taylor–Hood solver")
    solve = load_recipe(job.recipe)
    with bar("generate", lines=True) as progress:
        done = 0
        for split, options in parts.items():

            def shown(n: int, _: int, before: int = done) -> None:
                progress(before + n, total)

            solve(flows / split, **options, workers=os.cpu_count() or 1, progress=shown)
            done += options["flows"]
    stage(STAGES, 2, f"the flows into {out / STORE}")
    keep(job, flows, out / STORE)
    stage(STAGES, 3, f"a MeshGraphNet on the {parts['train']['flows']} training flows")
    learn(job)
    simulator, data = Simulator.load(job.run), Store(out / STORE)
    stage(STAGES, 4, f"{parts['test']['flows']} flows it never saw, beside their baselines")
    cases = judge(simulator, data, **settings["rollout"])
    stage(STAGES, 5, "pictures and the report")
    pictures = draw(simulator, data, cases, out, **settings["rollout"])
    result: dict[str, Any] = {
        "seconds": round(time.monotonic() - began, 1),
        "parameters": sum(p.numel() for p in simulator.model.parameters()),
        "cases": cases,
        "pictures": [path.name for path in pictures],
    }
    told = {"title": "meshsim demo: vortex streets it never saw", "what": words(settings, result)}
    captions = dict(zip(CAPTIONS, pictures, strict=True))
    render.report({**told, **result}, captions, out / "report.html")
    (out / "report.json").write_text(json.dumps(result, indent=2))
    return result


def judge(simulator: Simulator, store: Store, *, start: int, steps: int) -> list[dict[str, Any]]:
    """Errors of the rollouts of every test flow and of the baselines, one entry a flow."""
    from meshsim.cli.progress import bar
    from meshsim.train import evaluate

    with bar("roll out", lines=True) as progress:
        found = evaluate(
            simulator, store, split="test", start=start, steps=steps, progress=progress
        )
    cases = []
    for name, fields in found["cases"].items():
        errors = dict(fields["velocity"])
        wake = errors.pop("wake", {})
        known = store.sample(name).parameters
        cases.append(
            {
                "name": name,
                "inflow": float(known["inflow"]),
                "reynolds": round(float(known["reynolds"]), 2),
                **{who: {m: row[m] for m in METRICS if m in row} for who, row in errors.items()},
                "wake": wake,
            }
        )
    return cases


def draw(
    simulator: Simulator,
    store: Store,
    cases: list[dict[str, Any]],
    out: Path,
    *,
    start: int,
    steps: int,
) -> list[Path]:
    """Write the rollout of the middle test flow as .pvd, and its pictures."""
    from meshsim import render, write
    from meshsim.sample import Sample
    from meshsim.series import Series

    shown = cases[len(cases) // 2]
    sample = store.sample(shown["name"])
    truth = sample.branch
    assert isinstance(truth, Series)
    series = simulator.rollout(
        Sample(truth, sample.parameters), steps, start=float(truth.times[start])
    )
    write(series, out / "rollout.pvd")
    true = truth[start : start + steps + 1]
    made = [
        render.compare(true, series, "velocity", out / "compare.png", unit="m/s"),
        render.movie(series, "velocity", out / "rollout.gif", truth=true, unit="m/s"),
    ]
    return made


def table(report: dict[str, Any]) -> str:
    """The report's cases as lines of text: each row beside its baselines."""
    head = (
        "   Re | full rollout RMSE: model  time mean  persistence  last period |"
        " frequency  amplitude (model / true)"
    )
    lines = [head]
    for case in report["cases"]:

        def of(who: str, case: dict[str, Any] = case) -> str:
            value = case.get(who, {}).get("rollout_all")
            return "–" if value is None else f"{value:.4f}"

        lines.append(
            f"{case['reynolds']:6.1f} | {of('model'):>24} {of('time_mean'):>10}"
            f" {of('persistence'):>12} {of('last_period'):>12} |"
            f" {_ratio(case['wake'], 'frequency'):>9} {_ratio(case['wake'], 'amplitude'):>10}"
        )
    return "\n".join(lines)


def _ratio(wake: dict[str, float], name: str) -> str:
    """Predicted over true, or a dash for a flow that has no wake."""
    true = wake.get(f"{name}_true")
    return f"{wake[name] / true:.3f}" if true else "–"
