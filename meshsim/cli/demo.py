"""`meshsim demo`: the whole way on data it generates: solver, store, training, answer, report."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from meshsim.cli.demo_flow import judge, table

__all__ = ["demo", "judge", "run", "table"]

SHORT = {"flow": "cylinder_flow", "car": "car_bodies"}


def demo(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="flow, car, or a recipe with a demo.")
    ] = "flow",
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Default: demo; of NAME: demo_NAME."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the training.")] = 0,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Of training; default: the recipe's.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train once more.")] = False,
) -> None:
    """Generate data with a solver, learn them, answer for what was never seen, and report.

    flow: vortex streets in time. car: pressure, lift and drag of bodies shaped like cars, and of
    one from a bare STL file. Started again it carries on where it was.
    """
    recipe = SHORT.get(name, name)
    if out is None:
        out = Path("demo" if recipe == SHORT["flow"] else f"demo_{name}")
    report = run(recipe, out, seed=seed, minutes=minutes, overwrite=overwrite)
    print(f"\n{_story(recipe)[0].table(report)}\n", file=sys.stderr)
    print(f"done in {report['seconds']:.0f} s; open {out / 'report.html'}", file=sys.stderr)


def run(
    name: str,
    out: Path,
    *,
    seed: int = 0,
    minutes: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Do all of a recipe's demo in `out` and return what it writes into `out/report.json`."""
    import json

    from meshsim.cli.arguments import folder, recipe
    from meshsim.cli.demo_stages import Job
    from meshsim.train import read_config

    story, settings = _story(name)
    overrides = [f"data.store={json.dumps(str(out / story.STORE))}", f"train.seed={seed}"]
    overrides += [] if minutes is None else [f"train.minutes={minutes}"]
    training = read_config(recipe(name) / "train.toml", overrides)  # what is wrong is said at once
    folder(out).mkdir(parents=True, exist_ok=True)
    answer: dict[str, Any] = story.run(Job(name, out, settings, training, overwrite))
    return answer


def _story(name: str) -> tuple[ModuleType, dict[str, Any]]:
    """The file that tells a recipe's demo, and the recipe's demo.toml, which names it."""
    import tomllib

    from meshsim.check import InputError, check_known
    from meshsim.cli import demo_car, demo_flow
    from meshsim.cli.arguments import recipe

    path = recipe(name) / "demo.toml"
    if not path.exists():
        raise InputError(f"recipe {name!r} has no demo (no demo.toml in its folder)")
    settings = tomllib.loads(path.read_text())
    stories = {"flow": demo_flow, "car": demo_car}
    which = settings.get("story", "flow")
    check_known(which, stories, f"story in {path.name}:")
    return stories[which], settings
