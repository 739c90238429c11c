"""EnSight case files (6 and gold, ASCII and binary), read by VTK: parts, variables, times."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from meshsim.io.raw import Tree, beside, content, ensight_sizes, expect, steps, vtk
from meshsim.io.raw.merge import merge

HEADINGS = ("FORMAT", "GEOMETRY", "VARIABLE", "TIME", "FILE", "MATERIAL", "SCRIPTS", "BLOCK")
QUADRATIC = re.compile(rb"\b(bar3|tria6|quad8|tetra10|pyramid13|penta15|hexa20)\b")


def read(path: str, options: Tree) -> Tree:
    """A case as a tree; each part becomes a region, or a boundary where its dimension is lower.

    `options["step"]` reads one frame's fields.
    """
    case = _checked(path)
    reader = _opened(path)
    times, places, told = steps.rising(vtk.times(reader))
    every = vtk.times(reader)
    linear = _linear(path, case)

    def load(i: int) -> Tree:
        ensight_sizes.check(path, case, every[places[i]])
        fresh = _opened(path)
        fresh.SetTimeValue(every[places[i]])
        return _merged(fresh, len(times) < 2, linear)

    if "step" in options:
        step = options["step"]
        expect(0 <= step < len(times), f"has no step {step}")
        return steps.frame(load(step), options, f"time {times[step]:g}")
    if len(times) < 2:
        ensight_sizes.check(path, case, times[0] if times else None)
        if times:
            reader.SetTimeValue(times[0])
        out = _merged(reader, True, linear)
    elif _rests(case):
        first = steps.key(load(0))
        out = steps.series(load, times, [first] * len(times))
    else:
        size = sum(entry.stat().st_size for entry in os.scandir(_folder(path)) if entry.is_file())
        whole = steps.looked_at(len(times), size)
        unknown: steps.Key = (None, None, None)
        keys = [steps.key(load(i)) if see else unknown for i, see in enumerate(whole)]
        out = steps.series(load, times, keys)
    out["notes"] = [*out["notes"], *told]
    return out


def _merged(reader: Any, compare: bool, linear: list[str]) -> Tree:
    parts, names = vtk.leaves(vtk.run(reader))
    names = [" ".join(name.split()) for name in names]
    out = merge(parts, names, compare=compare)
    if len(parts) == 1:
        n = sum(len(block["rows"]) for block in out["blocks"])
        out["groups"] = {names[0]: {"cells": np.arange(n)}}
    out["notes"] = [*out["notes"], *linear]
    return out


def _linear(path: str, case: dict[str, list[str]]) -> list[str]:
    """What to say of a case of EnSight 6 with quadratic elements."""
    if "gold" in " ".join(case["FORMAT"]).lower():
        return []
    for line in case["GEOMETRY"]:
        name = line.split()[-1].strip("\"'")
        file = beside(path, name)
        if os.path.isfile(file) and QUADRATIC.search(content(file)):
            return ["quadratic elements of EnSight 6 are read as linear ones (by VTK)"]
    return []


def _folder(path: str) -> str:
    return os.path.dirname(path) or "."


def _checked(path: str) -> dict[str, list[str]]:
    """The lines of a case file by their headings, after a look at every file that it names."""
    lines: dict[str, list[str]] = {}
    heading = ""
    text = content(path)
    expect(b"master_server" not in text, "lists servers: give the case file of one of them")
    for raw in text.decode("utf-8", "replace").splitlines():
        line = raw.split("#", 1)[0].strip() if raw.lstrip().startswith("#") else raw.strip()
        if line.upper() in HEADINGS:
            heading = line.upper()
        elif line:
            lines.setdefault(heading, []).append(line)
    expect("FORMAT" in lines and "GEOMETRY" in lines, "has no FORMAT or no GEOMETRY")
    for heading in ("GEOMETRY", "VARIABLE", "TIME", "FILE", "MATERIAL"):
        for line in lines.get(heading, []):
            for word in line.partition(":")[2].split():
                beside(path, word.strip("\"'"))  # refuses what lies outside the folder
    for line in [*lines["GEOMETRY"], *lines.get("VARIABLE", [])]:
        key, _, rest = line.partition(":")
        words = re.sub(r"\bchange_coords_only\b.*", "", rest).split()
        if words and not key.strip().lower().startswith("constant"):
            names = words[-3:-1] if "complex" in key.lower() else words[-1:]
            for name in names:
                _whole(path, name.strip("\"'"))
    return lines


def _whole(path: str, name: str) -> None:
    """Refuse a file that is missing or cut short, where VTK would search it without end."""
    if "*" in name:
        return
    file = beside(path, name)
    expect(os.path.isfile(file), f"names {name!r}, which is not there")
    size = os.path.getsize(file)
    expect(size, f"names {name!r}, which is empty")
    with open(file, "rb") as opened:
        head = opened.read(200)
        opened.seek(max(0, size - 4096))
        tail = opened.read()
    expect(b"BEGIN TIME STEP" not in head or b"END TIME STEP" in tail, f"{name} ends early")
    expect(b"\0" in head or not ensight_sizes.broken(tail), f"{name} ends early")


def _rests(case: dict[str, list[str]]) -> bool:
    """The geometry is one file without a time set: its mesh is the same at all times."""
    models = [
        rest.split() for key, _, rest in (line.partition(":") for line in case["GEOMETRY"])
        if key.strip().lower() == "model"
    ]  # fmt: skip
    return all(len(words) == 1 and "*" not in words[0] for words in models)


def _opened(path: str) -> Any:
    import vtkmodules.vtkCommonDataModel  # noqa: F401, registers the classes of data
    from vtkmodules.vtkIOEnSight import vtkGenericEnSightReader

    reader = vtkGenericEnSightReader()
    reader.SetCaseFileName(path)
    vtk.told(reader.UpdateInformation)
    return reader
