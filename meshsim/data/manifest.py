"""The manifest of a store: what became of every input. It stands outside all hashes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshsim.check import InputError
from meshsim.data.files import read_json, write_json, writing_to
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series

if TYPE_CHECKING:
    from meshsim.data.store import Store

FILE = "manifest.json"
VERSION = 1
SECONDS = 2.0  # between two writes, and a twentieth of the time goes into writing at most
Entry = dict[str, Any]


def contents(sample: Sample) -> dict[str, dict[str, Any]]:
    """{branch: {"points", "cells": {type: count}, "times", "fields": {location: names}}}.

    Points and cells are those of the first segment of a series, times those of all.

    >>> mesh = Mesh([[0., 0.], [1., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]}, {"p": [1., 2., 3.]})
    >>> contents(Sample(mesh))["mesh"]["cells"]
    {'triangle': 1}
    """
    return {name: _counts(branch) for name, branch in sample.branches.items()}


def _counts(branch: Mesh | Series) -> dict[str, Any]:
    mesh = branch.mesh if isinstance(branch, Series) else branch
    cells: dict[str, int] = {}
    for block in mesh.cells:
        cells[block.type] = cells.get(block.type, 0) + len(block)
    point, cell = {*mesh.point_fields}, {*mesh.cell_fields}
    if isinstance(branch, Series):
        point |= {*branch.point_fields}
        cell |= {*branch.cell_fields}
    return {
        "points": mesh.n_points,
        "cells": cells,
        "times": sum(map(len, branch.segments)) if isinstance(branch, Series) else 0,
        "fields": {"point": sorted(point), "cell": sorted(cell)},
    }


def stored(name: str, content: Mapping[str, Any]) -> Entry:
    """The entry of a sample that is in the store, from its group document."""
    provenance = content["provenance"]
    return {
        "source": provenance.get("source", name),
        "sample": name,
        "status": "done",
        "reader": dict(provenance.get("reader", {})),
        "contents": content.get("contents", {}),
        "seconds": content.get("seconds", 0.0),
        "bytes_read": provenance.get("bytes_read", 0),
        "bytes_stored": content.get("bytes", 0),
        "error": "",
    }


def lacking(
    name: str, source: str, status: str, error: str = "", seconds: float = 0.0, size: int = 0
) -> Entry:
    """The entry of an input that is not in the store: "failed", or "waiting" for its turn."""
    return {
        "source": source,
        "sample": name,
        "status": status,
        "reader": {},
        "contents": {},
        "seconds": seconds,
        "bytes_read": size,
        "bytes_stored": 0,
        "error": error,
    }


def read(folder: Path) -> dict[str, Entry]:
    """{sample: entry} as the file of a store has it; {} where there is none."""
    try:
        found = read_json(folder / FILE)["inputs"]
        return {entry["sample"]: entry for entry in found if entry["status"]}
    except (InputError, KeyError, TypeError):
        return {}  # it only repeats what the samples say; a failure is found again


class Ledger:
    """Keeps the manifest of a store while `preprocess` fills it.

    What is stored is known from the samples themselves, so that no kill can make the manifest
    wrong; the file adds what is not there, and why. It is written now and then, and at the end.

    Arguments:
        store: locked for writing.
        inputs: {sample: source} of this run.
    """

    def __init__(self, store: Store, inputs: Mapping[str, str]):
        self.store, self.inputs = store, dict(inputs)
        known = read(store.path)
        self.failed = {
            n: e for n, e in known.items() if n in self.inputs and e["status"] == "failed"
        }
        self._again = 0.0

    def fail(self, name: str, error: str, seconds: float = 0.0, size: int = 0) -> None:
        """An input could not be used."""
        source = self.inputs.get(name, name)
        self.failed[name] = lacking(name, source, "failed", error, seconds, size)
        self.write(False)

    def succeed(self, name: str) -> None:
        """A sample is in the store, whatever was said of it before."""
        self.write(self.failed.pop(name, None) is not None)

    def entries(self) -> dict[str, Entry]:
        """{sample: entry} of all inputs and of what else is stored, sorted."""
        out = {n: lacking(n, source, "waiting") for n, source in self.inputs.items()}
        out |= self.store.entries() | self.failed
        return {name: out[name] for name in sorted(out)}

    def write(self, now: bool = True) -> dict[str, Entry]:
        """Write the file, unless it was written a moment ago and it need not be now."""
        began = time.monotonic()
        if not now and began < self._again:
            return {}
        entries = self.entries()
        with writing_to(self.store.path):
            write(self.store.path, entries.values())
        took = time.monotonic() - began
        self._again = time.monotonic() + max(SECONDS, 20 * took)
        return entries

    def leave(self) -> None:
        """Write what is known before an error goes on; the error matters more than the file."""
        with contextlib.suppress(Exception):
            self.write()


def write(folder: Path, entries: Iterable[Entry]) -> None:
    """Write the file, atomically."""
    write_json(folder / FILE, {"version": VERSION, "inputs": list(entries)})
