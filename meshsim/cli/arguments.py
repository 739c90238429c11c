"""What several subcommands read from the shell: key=value pairs, recipes, kinds of path."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshsim.check import InputError, nearest


def pairs(texts: Sequence[str]) -> dict[str, Any]:
    """`["inflow=1.5", "name=a"]` as a dict; values are read as TOML, else kept as text.

    >>> pairs(["inflow=1.5", "range=[1, 2]", "name=a"])
    {'inflow': 1.5, 'range': [1, 2], 'name': 'a'}
    """
    out: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"{text!r}: expected key=value")
        try:
            out[key.strip()] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            out[key.strip()] = value
    return out


def kind(path: Path) -> str:
    """What a path is: "run" (a trained simulator), "store", or "file" (any mesh, cases too)."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if (path / "simulator.json").exists():
        return "run"
    if (path / "zarr.json").exists():
        return "store"
    return "file"


def recipes() -> Path:
    """The folder of dataset recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "recipes", package.parent / "datasets"):
        if folder.is_dir():
            return folder
    raise InputError(f"the dataset recipes are missing (expected {package / 'recipes'})")


def recipe(name: str) -> Path:
    """The folder of one recipe; the error names the nearest."""
    names = [p.name for p in recipes().iterdir() if (p / "prepare.py").exists()]
    if name not in names:
        raise InputError(f"unknown recipe {name!r}: {nearest(name, names)}")
    return recipes() / name


def print_json(document: Any) -> None:
    """One JSON document on standard output; NaN and infinity become null."""
    json.dump(_plain(document), sys.stdout, indent=2, allow_nan=False)
    print()


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(v) for v in x]
    if hasattr(x, "tolist"):
        return _plain(x.tolist())
    if isinstance(x, float) and (x != x or x in (float("inf"), float("-inf"))):
        return None
    return str(x) if isinstance(x, Path) else x
