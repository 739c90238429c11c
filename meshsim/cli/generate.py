"""`meshsim generate`: run a recipe of datasets/ (a real solver)."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def load_recipe(name: str) -> Callable[..., Any]:
    """The function `generate(out, **options)` of datasets/NAME/prepare.py."""
    from meshsim.check import InputError
    from meshsim.cli.arguments import recipe

    folder = recipe(name)
    # Spawned workers find the recipe's functions by module name along the parent's sys.path.
    sys.path.insert(0, str(folder))
    sys.modules.pop("prepare", None)
    module = importlib.import_module("prepare")
    if not hasattr(module, "generate"):
        raise InputError(f"{name}: this recipe only has a program of its own, prepare.py")
    function: Callable[..., Any] = module.generate
    return function


def generate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A folder of datasets/.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...")] = None,
) -> None:
    """Generate a data set with its solver; an interrupted run started again carries on."""
    from meshsim.check import check_known
    from meshsim.cli.arguments import pairs
    from meshsim.cli.progress import bar

    function = load_recipe(name)
    given = pairs(options or [])
    known = [p for p in inspect.signature(function).parameters if p not in ("out", "progress")]
    for key in given:
        check_known(key, known, f"option of {name}")
    with bar(f"generate {name}") as progress:
        written = function(out, **given, progress=progress)
    print(f"{out}: {len(written)} files", file=sys.stderr)
