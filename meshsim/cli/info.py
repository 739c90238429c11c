"""`meshsim info`: what is in a file, a store or a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    path: Annotated[Path, typer.Argument(metavar="FILE|STORE|RUN", help="What to look into.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Ranges over all times, not the first and the last.")
    ] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Read in this process.")] = False,
) -> None:
    """Say what is in it: points, cells by type, fields with ranges, boundaries, times, bounds."""
    from meshsim.cli.arguments import kind, print_json
    from meshsim.io import guard

    what = kind(path)
    if what == "file" and not trust:
        guard.start()
    from meshsim import native

    with native.unbuilt():
        document = _document(path, what, full, trust)
    if json:
        print_json(document)
    else:
        _show(document)


def _document(path: Path, what: str, full: bool, trust: bool) -> dict[str, Any]:
    from meshsim.cli.arguments import load

    if what == "run":
        return _run(path)
    if what == "store":
        return _store(path, full)
    from meshsim.inspect import describe

    return describe(load(path, trust), file=str(path), full=full)


def _run(path: Path) -> dict[str, Any]:
    from meshsim.check import InputError
    from meshsim.cli.arguments import check_trained
    from meshsim.committee import Committee
    from meshsim.data.files import read_json

    check_trained(path)
    text = read_json(path / "simulator.json")
    if not isinstance(text, dict):
        raise InputError(f"{path}/simulator.json: does not describe a simulator")
    if text.get("kind") == "committee":
        from meshsim.loading import load

        made = load(path)  # which says what of it is missing or does not fit
        more = made.describe() if isinstance(made, Committee) else {}
        return {**text, **more, "file": str(path), "format": "committee"}
    return {**text, "file": str(path), "format": "simulator"}


def _store(path: Path, full: bool) -> dict[str, Any]:
    from meshsim.data import Store
    from meshsim.inspect import describe

    store = Store(path)
    first: dict[str, Any] = {}
    if store.names:
        first = describe(store.sample(store.names[0]), file=store.names[0], full=full)
    return {
        "file": str(path),
        "format": "store",
        "samples": len(store.names),
        "splits": {name: len(members) for name, members in store.splits.items()},
        "schema": store.schema.to_dict() if store.schema else None,
        "first": first,
    }


def _show(document: dict[str, Any], indent: str = "") -> None:
    for key, value in document.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{key}:")
            if {"shape", "dtype"} <= set(value):
                print(f"{indent}  {_field(value)}")
            elif all(isinstance(v, dict) and {"shape", "dtype"} <= set(v) for v in value.values()):
                for name, field in value.items():
                    print(f"{indent}  {name}: {_field(field)}")
            else:
                _show(value, indent + "  ")
        elif isinstance(value, list) and len(value) > 8 and not isinstance(value[0], dict | list):
            short = ", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in value[:3])
            last = f"{value[-1]:.6g}" if isinstance(value[-1], float) else value[-1]
            print(f"{indent}{key}: {short}, … {last} ({len(value)})")
        elif value not in (None, {}, [], ""):
            print(
                f"{indent}{key}: {value:.6g}"
                if isinstance(value, float)
                else f"{indent}{key}: {value}"
            )


def _field(f: dict[str, Any]) -> str:
    limits = f" from {_number(f['min'])} to {_number(f['max'])}" if f.get("min") is not None else ""
    return f"{tuple(f['shape'])} {f['dtype']}{limits}"


def _number(x: Any) -> str:
    return "[" + ", ".join(_number(v) for v in x) + "]" if isinstance(x, list) else f"{x:.6g}"
