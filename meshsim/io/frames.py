"""Frames of a file read when they are asked for, a few kept."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from meshsim.check import InputError
from meshsim.io import guard
from meshsim.io.build import Built
from meshsim.io.formats import Format
from meshsim.io.planar import flat
from meshsim.io.raw import Tree

KEEP_BYTES = 128 << 20


class Source:
    """The frames of one segment of a file.

    Arguments:
        built: the mesh of the segment and the form of its fields.
        steps: what the raw reader calls its frames.
        moves: the points move.
        key: checksum of the cells, for readers that compare it.
    """

    def __init__(
        self, path: Path, form: Format, trust: bool, built: Built, steps: list[Any],
        moves: bool = False, key: int | None = None,
    ):  # fmt: skip
        self.path, self.format, self.trust = path, form, trust
        self.built, self.steps, self.moves, self.key = built, steps, moves, key
        self._kept: OrderedDict[int, Tree] = OrderedDict()

    def frame(self, t: int) -> Tree:
        """All fields at the t-th step of the segment."""
        if t in self._kept:
            self._kept.move_to_end(t)
            return self._kept[t]
        options = {**self.format.options, "step": self.steps[t], "moves": self.moves}
        options["rows"] = [self.built.mesh.n_points, self.built.n_rows]
        if self.key is not None:
            options["key"] = self.key
        tree = guard.fetch(self.format.module, self.path, options, self.trust)
        self._kept[t] = tree
        while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > KEEP_BYTES:
            self._kept.popitem(last=False)
        return tree


def _size(tree: Tree) -> int:
    fields = [*tree.get("point_fields", {}).values(), *tree.get("cell_fields", {}).values()]
    return sum(values.nbytes for values in fields) + np.asarray(tree.get("points", 0)).nbytes


class Lazy:
    """The frames of one field: `frames[t]` reads it.

    Arguments:
        place: "point", "cell", or "points" for the positions of moving points.
        flattened: drop the third component, which must be zero.
    """

    def __init__(self, source: Source, place: str, name: str = "", flattened: bool = False):
        self.source, self.place, self.name, self.flattened = source, place, name, flattened

    def __len__(self) -> int:
        return len(self.source.steps)

    def __getitem__(self, t: int) -> Tensor:
        if not -len(self) <= t < len(self):
            raise IndexError(t)
        tree, built = self.source.frame(t % len(self)), self.source.built
        where = f"{self.source.path}: step {t % len(self)}"
        if self.place == "points":
            points = tree["points"][:, : built.dim]
            if len(points) != built.mesh.n_points:
                raise InputError(f"{where}: {len(points)} points (expected {built.mesh.n_points})")
            return built.form.cast("", points)
        fields = tree[f"{self.place}_fields"]
        if self.name not in fields:
            raise InputError(f"{where}: has no {self.place} field {self.name!r}")
        values = fields[self.name]
        n = built.mesh.n_points if self.place == "point" else built.n_rows
        if len(values) != n:
            raise InputError(f"{where}: {self.name!r} has {len(values)} rows (expected {n})")
        if self.place == "cell":
            values = values[built.rows]
        if self.flattened:
            if not flat(values):
                raise InputError(
                    f"{where}: {self.name!r} has a third component that is not zero"
                    " (read with planar=False)"
                )
            values = np.ascontiguousarray(values[:, :2])
        key = f"{self.place}:{self.name}"
        shape = built.form.shapes.get(key)
        if shape is not None:
            values = values.reshape(len(values), *shape[1:])
        elif values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        return built.form.cast(key, values)
