"""`meshsim check`: is a mesh fit for use, and what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

MOST = 100_000  # numbers that --full lists of one finding


def check(
    path: Annotated[Path, typer.Argument(metavar="FILE|CASE|STORE", help="What to look at.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="List every number (up to 100,000), look at every time."),
    ] = False,
    repair: Annotated[
        Path | None,
        typer.Option("--repair", metavar="OUT", help="Write what has one right answer, mended."),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Read in this process.")] = False,
) -> None:
    """Say whether a mesh, its boundaries and its fields are fit for use.

    Exit code 0: no defects, or warnings only; 1: errors (with --repair: that are left); 2: bad
    usage, or a file that cannot be read.

    --repair merges points at one place, drops double cells, cells that list a point twice and
    points of no cell, and turns cells that are listed the wrong way round; the rest it says.
    """
    from meshsim.cli.arguments import print_json

    document = _store(path, repair, full) if _is_store(path) else _file(path, repair, full, trust)
    if json:
        print_json(document)
    else:
        _show(document)
    if not document["ok"]:
        raise typer.Exit(1)


def _is_store(path: Path) -> bool:
    from meshsim.cli.arguments import kind

    return kind(path) == "store"


def _limit(full: bool) -> int:
    from meshsim.defects import FIRST

    return MOST if full else FIRST


def _store(path: Path, repair: Path | None, full: bool) -> dict[str, Any]:
    from meshsim import findings
    from meshsim.check import InputError
    from meshsim.data import Store

    if repair is not None:
        raise InputError(f"{path}: a store is not repaired (repair the files that it was made of)")
    store = Store(path)
    samples: dict[str, Any] = {}
    for name in store.names:
        samples[name] = findings.check(store.sample(name), limit=_limit(full), full=full)
    ok = all(found["ok"] for found in samples.values())
    return {"file": str(path), "ok": ok, "samples": samples}


def _file(path: Path, repair: Path | None, full: bool, trust: bool) -> dict[str, Any]:
    from meshsim import findings
    from meshsim.cli.arguments import load, ready

    if repair is not None:
        _not_over(path, repair)
    data = load(path, trust)
    if repair is None:
        return {"file": str(path), **findings.check(data, limit=_limit(full), full=full)}
    from meshsim.io import write
    from meshsim.repair import repaired

    lost = ready(data, repair)
    mended, done, left = repaired(data)
    for sentence in lost:
        print(f"note: {sentence}", file=sys.stderr)
    write(mended, repair)
    after = findings.check(mended, limit=_limit(full), full=full)
    out = {"file": str(path), "repaired": str(repair), "done": done, "left": left}
    return {**out, **after}


def _not_over(path: Path, out: Path) -> None:
    """Raise `InputError` if a repair would write over what it reads, or into its folder."""
    from meshsim.check import InputError

    source, target = path.resolve(), out.resolve()
    if target == source or source in target.parents or target in source.parents:
        raise InputError(f"{out}: a repair is not written over its input (name another file)")
    if out.exists() and out.samefile(path):
        raise InputError(f"{out}: a repair is not written over its input (name another file)")


def _show(document: dict[str, Any]) -> None:
    if "samples" in document:
        for name, found in document["samples"].items():
            print(f"{name}:")
            _problems(found, "  ")
        return
    if "done" in document:
        for text in document["done"] or ["nothing to repair"]:
            print(f"repaired: {text}")
        for text in document["left"]:
            print(f"left: {text}")
        print(f"{document['repaired']}:")
    _problems(document, "")


def _problems(found: dict[str, Any], indent: str) -> None:
    from meshsim.defects import spoken

    for problem in found["problems"]:
        print(indent + _sentence(problem))
    figures = found["figures"]
    nested = figures and "max" not in next(iter(figures.values()))
    for branch, some in figures.items() if nested else [("", figures)]:
        prefix = f"{branch}: " if branch else ""
        for name, value in some.items():
            over = f", {value['over']} over {value['threshold']:g}" if value["over"] else ""
            words = f"max {value['max']:.6g}, mean {value['mean']:.6g}{over}"
            print(f"{indent}{prefix}{spoken(name)}: {words}")
    count = {s: sum(p["severity"] == s for p in found["problems"]) for s in ("error", "warning")}
    verdict = "fit for use" if found["ok"] else "not fit for use"
    kinds = [f"{n} kind{'s' * (n != 1)} of {s}s" for s, n in count.items() if n]
    print(f"{indent}{verdict}" + (f": {', '.join(kinds)}" if kinds else ""))


def _sentence(problem: dict[str, Any]) -> str:
    """One finding in a line."""
    text = problem["text"]
    if problem["examples"]:
        more = ", …" if problem["count"] > len(problem["examples"]) else ""
        text += f" (numbers {', '.join(map(str, problem['examples']))}{more})"
    if problem["at"] is not None:
        text += f", the first at ({', '.join(f'{x:.6g}' for x in problem['at'])})"
    where = f" [{problem['where']}]" if problem["where"] else ""
    return f"{problem['severity']}: {problem['kind']}{where}: {text}"
