"""`meshsim generate`: run a recipe of datasets/ (a real solver)."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

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
        raise InputError(
            f"{name}: nothing to generate; it is a program of its own: python {folder}/prepare.py"
        )
    function: Callable[..., Any] = module.generate
    return function


def check_options(name: str, function: Callable[..., Any], given: dict[str, Any]) -> None:
    """Raise `InputError` unless a recipe's function can be called with these options."""
    from meshsim.check import InputError, check_known

    every = inspect.signature(function, eval_str=True).parameters
    known = {n: p for n, p in every.items() if n not in ("out", "progress")}
    for key, value in given.items():
        check_known(key, known, f"option of {name}")
        wanted = known[key].annotation
        single = get_args(wanted)[0] if get_origin(wanted) is Sequence else wanted
        listed = value if single is not wanted and isinstance(value, list) else [value]
        if single in (int, float, str) and not all(_fits(v, single) for v in listed):
            text = f"a list of {single.__name__}" if single is not wanted else single.__name__
            raise InputError(f"{name}: {key}: expected {text}, got {value!r}")
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in given:
            raise InputError(f"{name}: option {key!r} is missing (add {key}=...)")


def _fits(value: Any, wanted: type) -> bool:
    return isinstance(value, int | float if wanted is float else wanted)


def generate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A folder of datasets/.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...")] = None,
) -> None:
    """Generate a data set with its solver; an interrupted run started again carries on."""
    from meshsim.cli.arguments import folder, pairs
    from meshsim.cli.progress import bar

    function = load_recipe(name)
    given = pairs(options or [])
    check_options(name, function, given)
    with bar(f"generate {name}") as progress:
        written = function(folder(out), **given, progress=progress)
    print(f"{out}: {len(written)} files", file=sys.stderr)
