"""What several subcommands read from the shell: key=value pairs, recipes, files and folders."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshsim.check import InputError, nearest

if TYPE_CHECKING:
    from meshsim.committee import Committee
    from meshsim.mesh import Mesh
    from meshsim.sample import Sample
    from meshsim.series import Series
    from meshsim.simulator import Simulator
    from meshsim.surrogate import Surrogate

KINDS = {
    "run": "a trained run",
    "store": "a store",
    "file": "a mesh file or case folder",
}


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
    """What a path is: "run" (trained, or still training), "store", or "file" (any other)."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if (path / "simulator.json").exists() or (path / "run.json").exists():
        return "run"
    if (path / "zarr.json").exists():
        return "store"
    return "file"


def numbers(texts: Sequence[str]) -> dict[str, Any]:
    """Parameters of a sample: pairs whose values are numbers or lists of them.

    >>> numbers(["inflow=1.5", "wind=[1, 0]", "angle=.7"])
    {'inflow': 1.5, 'wind': [1, 0], 'angle': 0.7}
    """
    out = pairs(texts)
    for key, value in out.items():
        if isinstance(value, str):
            with suppress(ValueError):  # TOML takes no .7
                out[key] = value = float(value)
        listed = value if isinstance(value, list) and value else [value]
        if not all(isinstance(x, int | float) for x in listed):
            raise InputError(f"{key}={value}: expected a number or a list of numbers, as in [1, 0]")
    return out


def size(text: str) -> int:
    """Bytes: "4GB", "500 MB", "2GiB", or a plain number.

    >>> size("4GB"), size("1.5 GiB"), size("1000")
    (4000000000, 1610612736, 1000)
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmgt]?)(i?)b?\s*", text.lower())
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if found is None or not number:
        raise InputError(f"{text!r}: expected a size, as 4GB")
    return int(number * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " "))


def expect(path: Path, wanted: str) -> None:
    """Raise `InputError` unless `path` is of a kind, "run", "store" or "file"."""
    found = kind(path)
    if found != wanted:
        other = "a folder of other things" if path.is_dir() else "a file"
        what = other if found == "file" else KINDS[found]
        raise InputError(f"{path}: {what} (expected {KINDS[wanted]})")


def load(path: Path, trust: bool = False, time: str | None = None) -> Mesh | Series | Sample:
    """What a mesh file or a case folder holds, or that at a time ("first", "last" or a number).

    Of any other folder the message says what it is.
    """
    from meshsim.io import guard

    expect(path, "file")
    if not trust:
        guard.start()
    from meshsim.io import format_of, read

    if path.is_dir():
        try:
            format_of(path)
        except InputError:
            raise InputError(f"{path}: no case folder; {_inside(path)}") from None
    return read(path, trust=trust, time=time)


def _inside(folder: Path) -> str:
    """The mesh files in a folder, in words."""
    from meshsim.data import find_sources

    try:
        found = find_sources([str(folder)], None)
    except InputError:
        return "there are no mesh files in it either"
    return f"name one of the {len(found)} meshes in it, as {found[0].path}"


def check_trained(run: Path) -> None:
    """Raise `InputError` unless `run` is the folder of a training that came to its end."""
    expect(run, "run")
    if not (run / "simulator.json").exists():
        raise InputError(f"{run}: no simulator yet (start its training again to go on)")


def trained(run: Path) -> Simulator | Surrogate | Committee:
    """What was trained in a run's folder."""
    from meshsim.loading import load

    check_trained(run)
    return load(run)


def simulator(run: Path) -> Simulator:
    """The simulator in a run's folder; a surrogate has no time to advance in."""
    from meshsim.simulator import Simulator

    found = trained(run)
    if not isinstance(found, Simulator):
        what = type(found).__name__.lower()
        raise InputError(f"{run}: a {what}, which has no state in time (use predict)")
    return found


def ready(data: Mesh | Series | Sample, out: Path) -> list[str]:
    """Make the folder of a file to be written, and say what that file cannot hold of `data`.

    Called before the work starts, so that a wrong name does not cost its result.

    Raises:
        InputError: nothing is written under such a name, or not this.
    """
    from meshsim.io import losses

    found = losses(data, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    return found


def folder(out: Path) -> Path:
    """The folder to write to, which may be new."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file (expected a folder to write to)")
    return out


def recipes() -> Path:
    """The folder of dataset recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "recipes", package.parent / "datasets"):
        if folder.is_dir():
            return folder
    raise InputError(f"the dataset recipes are missing (expected {package / 'recipes'})")


def _names() -> list[str]:
    return [p.name for p in recipes().iterdir() if (p / "prepare.py").exists()]


def recipe(name: str) -> Path:
    """The folder of one recipe; the error names the nearest."""
    if name not in _names():
        raise InputError(f"unknown recipe {name!r}: {nearest(name, _names())}")
    return recipes() / name


def configuration(path: Path) -> Path:
    """A TOML file; `datasets/NAME/FILE` is found in the installed package too.

    Raises:
        InputError: there is no such file; the name of a recipe alone gets its config named.
    """
    if path.is_file():
        return path
    inside = recipes().joinpath(*path.parts[1:])
    if path.parts[:1] == ("datasets",) and inside.is_file():
        return inside
    hint = f"; did you mean datasets/{path}/config.toml?" if str(path) in _names() else ""
    what = "a folder (expected a .toml file)" if path.is_dir() else "no such file"
    raise InputError(f"{path}: {what}{hint}")


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
