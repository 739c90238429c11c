"""Segments of stored samples whose fields are read in part, the mesh not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from meshsim.check import InputError, check_known
from meshsim.data import disk
from meshsim.data.disk import StoredFrames
from meshsim.data.schema import Field, columns
from meshsim.data.shards import Picked
from meshsim.data.store import Store
from meshsim.series import Series


class Unread:
    """One segment of a sample.

    Arguments:
        folder: the sample's.
        name: of the sample.
        content: its document.
        tree: of the segment, or of a steady mesh.
        place: "point" or "cell", where its rows are.
    """

    def __init__(
        self, folder: Path, name: str, content: dict[str, Any], tree: dict[str, Any], place: str
    ):
        self.folder, self.name, self.content, self.tree = folder, name, content, tree
        self.place, self.steady = place, "times" not in tree
        self._frames: dict[str, StoredFrames] = {}
        self._arrays: dict[str, Any] = {}
        self.times = None if self.steady else disk.read_array(folder, tree["times"])
        self.rows = self._rows()

    def __len__(self) -> int:
        return 1 if self.times is None else len(self.times)

    def _rows(self) -> int:
        moving, still = self._tables()
        for path in moving.values():
            return int(self.content["frames"][path]["shape"][1])
        points = self.tree["mesh"]["points"]
        if self.place == "cell" and not still:
            raise InputError(f"sample {self.name!r}: there are no cell fields")
        path = points if self.place == "point" else next(iter(still.values()))
        return int(self._array(path).shape[0])

    def _tables(self) -> tuple[dict[str, str], dict[str, str]]:
        """{name: path} of what changes in time, and of what does not."""
        moving = {} if self.steady else self.tree[f"{self.place}_frames"]
        return moving, self.tree["mesh"][f"{self.place}_fields"]

    def check(self, field: Field) -> None:
        """Raise `InputError` unless the field is here, at the nodes or one for all."""
        label = f"sample {self.name!r}: field {field.name!r}"
        moving, still = self._tables()
        if field.location == "global":
            known = {*self.content["tree"]["parameters"], *self.tree["mesh"]["global_fields"]}
            check_known(field.name, known, f"global value of sample {self.name!r}:")
        elif field.location != self.place:
            raise InputError(
                f"{label}: expected a field at a {self.place} or a global one, got one at a "
                f"{field.location}"
            )
        else:
            check_known(field.name, {*moving, *still}, f"field of sample {self.name!r}:")
            if field.role == "state" and not self.steady and field.name not in moving:
                raise InputError(f"{label}: a state that does not change in time")

    def values(self, field: Field, times: range, rows: Picked) -> Shaped[Tensor, "n ..."]:
        """(n, L, c) of a field that changes in time, or is a state; else (n, c), or (1, c)."""
        if field.location == "global":
            return self._global(field.name).reshape(1, -1)
        moving, still = self._tables()
        if field.name in moving:
            return self._part(moving[field.name], times, rows)
        path = still[field.name]
        found = disk.read_array(self.folder, path, rows, self._array(path))
        found = columns(found, 1)
        return found[:, None] if field.role == "state" else found

    def points(self, rows: Picked) -> Float[Tensor, "n D"]:
        """(n, D) places of points at rest, or centres of cells."""
        if self.place == "point":
            path = self.tree["mesh"]["points"]
            return disk.read_array(self.folder, path, rows, self._array(path))
        if "centres" not in self._arrays:  # needs the whole mesh, once
            sample = disk.read_sample(self.folder, self.name, self.content)
            trees = [
                part
                for branch in self.content["tree"]["branches"].values()
                for part in branch.get("segments", [branch])
            ]
            parts = [
                part
                for content in sample.branches.values()
                for part in (content.segments if isinstance(content, Series) else [content])
            ]
            part = parts[next(k for k, tree in enumerate(trees) if tree is self.tree)]
            mesh = part.mesh if isinstance(part, Series) else part
            self._arrays["centres"] = mesh.cell_centres
        return self._arrays["centres"][torch.as_tensor(rows)]

    def moving_points(self, times: range, rows: Picked) -> Float[Tensor, "n L D"] | None:
        """(n, L, D) places of points that move; None where they rest."""
        path = None if self.steady else self.tree["moving_points"]
        return None if path is None or self.place != "point" else self._part(path, times, rows)

    def _part(self, path: str, times: range, rows: Picked) -> Tensor:
        if path not in self._frames:
            document = self.content["frames"][path]
            self._frames[path] = StoredFrames(self.folder, path, **document)
        return columns(self._frames[path].part(times, rows), 2).transpose(0, 1).contiguous()

    def _array(self, path: str) -> Any:
        if path not in self._arrays:
            self._arrays[path] = disk.open_array(self.folder, path)
        return self._arrays[path]

    def _global(self, name: str) -> Tensor:
        leaf = {**self.tree["mesh"]["global_fields"], **self.content["tree"]["parameters"]}[name]
        if isinstance(leaf, str):
            return disk.read_array(self.folder, leaf)
        dtype = getattr(torch, leaf["dtype"])
        return torch.tensor(leaf["values"], dtype=dtype).reshape(leaf["shape"])


def unread(store: Store, name: str, branch: str | None, place: str) -> list[Unread]:
    """The segments of a sample, none of their fields read."""
    folder, content = store.document(name)
    branches = content["tree"]["branches"]
    if branch is None and len(branches) > 1:
        raise InputError(f"sample {name!r} has the branches {', '.join(branches)}: say which")
    if branch is not None:
        check_known(branch, branches, f"branch of sample {name!r}:")
    disk.check_whole(folder, content)
    part = branches[branch or next(iter(branches))]
    return [Unread(folder, name, content, tree, place) for tree in part.get("segments", [part])]
