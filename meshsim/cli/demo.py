"""`meshsim demo`: the whole way on data it generates: solver, store, training, rollout, report."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from meshsim.data import Store
    from meshsim.simulator import Simulator

STAGES = ("generate", "preprocess", "train", "roll out", "draw")
METRICS = ("one_step", "rollout_50", "rollout_all")


def demo(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A recipe with a demo.")] = (
        "cylinder_flow"
    ),
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR")] = Path("demo"),
    seed: Annotated[int, typer.Option("--seed", help="Of the training.")] = 0,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Of training; default: the recipe's.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train once more.")] = False,
) -> None:
    """Generate flows with a real solver, learn them, roll out flows never seen, and report.

    Ten minutes at most on two free cores; started again it carries on where it was.
    """
    report = run(name, out, seed=seed, minutes=minutes, overwrite=overwrite)
    print(f"\n{table(report)}\n", file=sys.stderr)
    print(f"done in {report['seconds']:.0f} s; open {out / 'report.html'}", file=sys.stderr)


def run(
    name: str,
    out: Path,
    *,
    seed: int = 0,
    minutes: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Do all of the demo in `out` and return what it writes into `out/report.json`."""
    import os
    import tomllib

    from meshsim.check import InputError
    from meshsim.cli.arguments import folder, recipe
    from meshsim.cli.generate import load_recipe
    from meshsim.cli.progress import bar
    from meshsim.data import Store, preprocess
    from meshsim.simulator import Simulator
    from meshsim.train import read_config, train

    began = time.monotonic()
    if not (recipe(name) / "demo.toml").exists():
        raise InputError(f"recipe {name!r} has no demo (no demo.toml in its folder)")
    settings = tomllib.loads((recipe(name) / "demo.toml").read_text())
    flows, store, trained = out / "flows", out / "flows.zarr", out / "run"
    overrides = [f"data.store={json.dumps(str(store))}", f"train.seed={seed}"]
    overrides += [] if minutes is None else [f"train.minutes={minutes}"]
    training = read_config(recipe(name) / "train.toml", overrides)  # what is wrong is said at once
    folder(out).mkdir(parents=True, exist_ok=True)

    parts = settings["generate"]
    total = sum(options["flows"] for options in parts.values())
    _stage(1, f"{total} flows past a cylinder with the Taylor–Hood solver")
    solve = load_recipe(name)
    with bar("generate", lines=True) as progress:
        done = 0
        for split, options in parts.items():

            def shown(n: int, _: int, before: int = done) -> None:
                progress(before + n, total)

            solve(flows / split, **options, workers=os.cpu_count() or 1, progress=shown)
            done += options["flows"]

    _stage(2, f"the flows into {store}")
    with bar("preprocess", lines=True) as progress:
        report = preprocess([flows], store, config=settings["preprocess"], progress=progress)
    if report.failed:
        raise InputError(report.failed[0][1])

    _stage(3, f"a MeshGraphNet on the {parts['train']['flows']} training flows")
    with bar("train", lines=True) as progress:
        train(training, trained, overwrite=overwrite, progress=progress)

    simulator, data = Simulator.load(trained), Store(store)
    _stage(4, f"{parts['test']['flows']} flows it never saw, beside their baselines")
    cases = judge(simulator, data, **settings["rollout"])
    _stage(5, "pictures and the report")
    pictures = draw(simulator, data, cases, out, **settings["rollout"])
    result: dict[str, Any] = {
        "seconds": round(time.monotonic() - began, 1),
        "parameters": sum(p.numel() for p in simulator.model.parameters()),
        "cases": cases,
        "pictures": [path.name for path in pictures],
    }
    from meshsim import render

    told = {"title": "meshsim demo: vortex streets it never saw", "what": words(settings, result)}
    captions = dict(zip(CAPTIONS, pictures, strict=True))
    render.report({**told, **result}, captions, out / "report.html")
    (out / "report.json").write_text(json.dumps(result, indent=2))
    return result


CAPTIONS = (
    "Velocity magnitude after the last step of a rollout: truth, prediction, error",
    "The whole rollout beside the truth",
)


def words(settings: dict[str, Any], result: dict[str, Any]) -> list[str]:
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


def _stage(number: int, what: str) -> None:
    print(f"[{number}/{len(STAGES)}] {STAGES[number - 1]}: {what}", file=sys.stderr, flush=True)


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
