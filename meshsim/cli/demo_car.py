"""The demo of bodies: pressure, lift and drag of shapes that the model never saw."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshsim.cli.demo_stages import Job, keep, learn, side_by_side, stage

if TYPE_CHECKING:
    from meshsim.cli.demo_bodies import Known
    from meshsim.data import Store
    from meshsim.surrogate import Surrogate

STAGES = ("generate", "preprocess", "train", "judge", "bare surface", "draw")
STORE = "cars.zarr"


def run(job: Job) -> dict[str, Any]:
    """Do all of the demo and return what it writes into `report.json`."""
    from meshsim.cli import demo_bodies as bodies
    from meshsim.cli.generate import load_recipe
    from meshsim.cli.progress import bar
    from meshsim.data import Store
    from meshsim.surrogate import Surrogate

    clock = [time.monotonic()]
    out, settings, parts = job.out, job.settings, job.settings["generate"]
    total = sum(options["bodies"] for options in parts.values())
    stage(STAGES, 1, f"potential flow about {total} bodies by source panels; their drag is zero")
    with bar("generate", lines=True) as progress:
        side_by_side(
            load_recipe(job.recipe),
            out / "cars",
            parts,
            total=total,
            workers=min(os.cpu_count() or 1, len(parts)),
            progress=progress,
        )
    clock.append(time.monotonic())
    stage(STAGES, 2, f"the bodies into {out / STORE}")
    keep(job, out / "cars", out / STORE)
    store = Store(out / STORE)
    clock.append(time.monotonic())
    train, test = store.members(job.training.data.train), store.members("test")
    stage(STAGES, 3, f"a neural field on the {len(train)} training bodies")
    learn(job)
    surrogate = Surrogate.load(job.run)
    clock.append(time.monotonic())
    stage(STAGES, 4, f"{len(test)} bodies it never saw, beside their baselines")
    asked = settings["judge"]
    known = bodies.known(store, train, asked["density"])
    cases, answers = judge(surrogate, store, known, test, asked)
    longer = bodies.scaled(surrogate, store.sample(test[len(test) // 2]), asked)
    for sentence in longer["warnings"]:
        print(f"  a body scaled by {asked['scale']:g}: {sentence}", file=sys.stderr)
    clock.append(time.monotonic())
    stage(STAGES, 5, f"{out / 'body.stl'}: triangles and nothing else")
    bare = bodies.bare(surrogate, store.sample(test[-1]), asked, out)
    clock.append(time.monotonic())
    stage(STAGES, 6, "pictures and the report")
    result: dict[str, Any] = {
        "parameters": sum(p.numel() for p in surrogate.model.parameters()),
        "bodies": {"train": len(train), "test": len(test)},
        **summary(cases),
        "longer": longer,
        "bare": bare,
        "cases": cases,
    }
    pictures = draw(answers, cases, store, out)
    clock.append(time.monotonic())
    spans = zip(STAGES, clock, clock[1:], strict=False)
    result |= {
        "seconds": round(clock[-1] - clock[0], 1),
        "stages": {name: round(b - a, 1) for name, a, b in spans},
        "pictures": [path.name for path in pictures.values()],
    }
    from meshsim import render

    told = {"title": "meshsim demo: bodies it never saw", "what": words(result, asked)}
    page = {k: v for k, v in result.items() if k != "cases"}
    render.report({**told, **page}, pictures, out / "report.html")
    (out / "report.json").write_text(json.dumps(result, indent=2))
    return result


def judge(
    surrogate: Surrogate,
    store: Store,
    known: Known,
    names: Sequence[str],
    asked: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Errors and coefficients of every test body, and {name: the mesh with its prediction}."""
    from meshsim.cli import demo_bodies as bodies
    from meshsim.cli.progress import bar
    from meshsim.sample import Sample

    cases, answers = [], {}
    with bar("judge", lines=True) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how many lie a little outside is counted instead
        for i, name in enumerate(names):
            sample = store.sample(name)
            answer = surrogate.predict(sample, draws=asked["draws"])
            mesh = answers[name] = answer.mesh if isinstance(answer, Sample) else answer
            outside = len(surrogate.outside(sample))
            found = bodies.beside(sample, mesh, known, surrogate)
            cases.append({"name": name, "outside": outside, **found})
            progress(i + 1, len(names), name)
    return cases, answers


def summary(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the bodies: what the report's table shows, and how the forces agree."""
    import numpy as np
    import torch

    from meshsim.physics.designs import r_squared, spearman

    def row(who: str) -> dict[str, dict[str, float]]:
        made = {}
        if who in cases[0]["pressure"]:
            each = [case["pressure"][who] for case in cases]
            made["pressure"] = {"relative_l2": float(np.mean(each))}
        off = [abs(case["lift"][who] - case["lift"]["computed"]) for case in cases]
        made["lift coefficient"] = {"mean_error": float(np.mean(off))}
        return made

    def column(quantity: str, who: str) -> torch.Tensor:
        return torch.tensor([case[quantity][who] for case in cases], dtype=torch.float64)

    others = [who for who in cases[0]["lift"] if who not in ("model", "computed")]
    varied = [who for who in others if who != "training_mean"]  # a constant pressure lifts nothing
    truth = column("lift", "computed")
    agree = {
        who: {"r_squared": r_squared(truth, y), "spearman": spearman(truth, y)}
        for who, y in ((who, column("lift", who)) for who in ("model", *varied))
    }
    drag = {who: float(column("drag", who).square().mean().sqrt()) for who in ("computed", "model")}
    return {
        "metrics": row("model"),
        "baselines": {who: row(who) for who in others},
        "lift": {"computed_spread": float(truth.std(correction=0)), **agree},
        "drag_rms": drag,
    }


def words(result: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What was done, in sentences for the report."""
    count, lift, drag = result["bodies"], result["lift"]["model"], result["drag_rms"]
    longer, bare = result["longer"], result["bare"]
    return [
        f"Source panels computed the potential flow about {count['train']} bodies shaped like cars;"
        f" a neural field with {result['parameters']:,} parameters learned from them, on this"
        " machine, the pressure on a surface from the surface and the inflow alone. It then"
        f" answered for {count['test']} bodies that it never saw.",
        "This is potential flow: without viscosity, without a wake. Its drag is zero"
        " (d'Alembert), which is a law to check against, not a car's drag. Root mean squares of"
        f" the drag coefficient: {drag['computed']:.4f} of the panels, {drag['model']:.4f} of the"
        " predicted pressure.",
        f"Lift coefficients from the predicted pressure: R² {lift['r_squared']:.3f}, Spearman"
        f" {lift['spearman']:.3f}. The baselines: the nearest training body lends its pressure"
        " coefficients cell by cell, as does the mean of all (all bodies have the same cells in"
        " the same order, which the model is not told); the training mean is one number. The"
        " linear fit of the lift is told the design values, which no surface file holds.",
        f"A body scaled by {longer['scale']:g} is larger than any in training. Potential flow has"
        " no length of its own, so its pressure is known: the relative error is"
        f" {longer['relative_l2']:.3f}, before scaling {longer['unscaled_relative_l2']:.3f}. What"
        f" the model says to it: {'; '.join(longer['warnings']) or 'nothing'}.",
        f"From body.stl, {bare['triangles']:,} triangles without any field, the pressure was"
        f" predicted into body.vtp with its spread over {asked['draws']} draws of anchors:"
        f" relative error {bare['relative_l2']:.3f}, mean spread {bare['spread']:.3g} Pa, mean"
        f" error {bare['error']:.3g} Pa.",
    ]


def draw(
    answers: Mapping[str, Any], cases: Sequence[Mapping[str, Any]], store: Store, out: Path
) -> dict[str, Path]:
    """{caption: picture}: three bodies, and the lift of all."""
    from meshsim import render

    made = {}
    chosen = sorted({0, len(cases) // 2, len(cases) - 1})
    for k, i in enumerate(chosen):
        name = cases[i]["name"]
        made[f"Pressure on {name}: computed, predicted, difference"] = render.compare(
            store.sample(name).mesh, answers[name], "pressure", out / f"pressure_{k}.png", unit="Pa"
        )
    lift = {who: [case["lift"][who] for case in cases] for who in cases[0]["lift"]}
    series = {"model": lift["model"], "linear in the design values": lift["linear"]}
    made["Lift coefficients of the bodies it never saw"] = render.parity(
        lift["computed"], series, out / "lift.png", name="lift coefficient"
    )
    return made


def table(report: Mapping[str, Any]) -> str:
    """The report's cases as lines of text: each body beside its baselines."""
    lines = [
        "body             | pressure, relative L2: model  nearest     mean |"
        " lift: computed  model | drag (law: 0): computed  model"
    ]
    for case in report["cases"]:
        pressure, lift, drag = case["pressure"], case["lift"], case["drag"]
        lines.append(
            f"{case['name'][-16:]:16} | {pressure['model']:28.3f} {pressure['nearest_body']:8.3f}"
            f" {pressure['mean_body']:8.3f} | {lift['computed']:14.3f} {lift['model']:6.3f} |"
            f" {drag['computed']:23.4f} {drag['model']:6.4f}"
        )
    means = {who: row["pressure"] for who, row in report["baselines"].items() if "pressure" in row}
    errors = {"model": report["metrics"]["pressure"], **means}
    told = ", ".join(f"{who.replace('_', ' ')} {e['relative_l2']:.3f}" for who, e in errors.items())
    lift = report["lift"]
    agree = ", ".join(
        f"{who.replace('_', ' ')} {lift[who]['r_squared']:.3f}" for who in ("model", "linear")
    )
    return "\n".join([*lines, f"mean pressure error: {told}", f"R² of the lift: {agree}"])
