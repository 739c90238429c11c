"""`attach`: values in files beside a mesh (SU2's csv and restart files) put on its points."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from meshsim.check import InputError
from meshsim.io import guard
from meshsim.io.raw import Tree
from meshsim.mesh import Mesh
from meshsim.series import Series


def attach(
    mesh: Mesh,
    paths: str | Path | Sequence[str | Path],
    *,
    times: Sequence[float] | None = None,
    dt: float = 1.0,
    trust: bool = False,
) -> Mesh | Series:
    """Put point values from files beside a mesh on it: one file a Mesh, several a Series.

    Columns named …_x, …_y (…_z) become the components of one vector. Points are matched by their
    number, and their coordinates are checked against the mesh.

    Arguments:
        mesh: the mesh that the values belong to.
        paths: SU2's .csv or .dat files, or a pattern ("run/solution_flow_*.csv"); the number at
            the end of a name is its step.
        times: one a file; default: step number × `dt`.
        dt: time between steps.
        trust: read in this process.

    Raises:
        InputError: no file, other points than the mesh, files with different columns.
    """
    files = _files(paths)
    if len(files) == 1 and times is None:
        return mesh.with_fields(_fields(files[0], mesh, trust))
    steps = [_step(path, i) for i, path in enumerate(files)]
    order = np.argsort(steps, kind="stable")
    files = [files[i] for i in order]
    when = [steps[i] * dt for i in order] if times is None else [float(t) for t in times]
    if len(when) != len(files):
        raise InputError(f"`times`: expected {len(files)} (one a file), got {len(when)}")
    names = list(_fields(files[0], mesh, trust))
    source = _Files(files, mesh, names, trust)
    return Series(mesh, when, {name: _Column(source, name) for name in names})


def _files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    out: list[Path] = []
    for path in given:
        if not Path(path).exists() and any(c in str(path) for c in "*?["):
            found = sorted(glob.glob(str(path)))
            if not found:
                raise InputError(f"{path}: no file has such a name")
            out += map(Path, found)
        elif not Path(path).is_file():
            raise InputError(f"{path}: no such file")
        else:
            out.append(Path(path))
    if not out:
        raise InputError("no files given")
    return out


def _step(path: Path, otherwise: int) -> float:
    digits = re.search(r"(\d+)$", path.stem)
    return float(digits[1]) if digits else float(otherwise)


def _fields(path: Path, mesh: Mesh, trust: bool) -> dict[str, torch.Tensor]:
    tree = guard.fetch("table", path, {}, trust)
    fields = tree["point_fields"]
    n = len(next(iter(fields.values())))
    if n != mesh.n_points:
        raise InputError(f"{path}: {n} rows (expected {mesh.n_points}, one for each point)")
    rows = _rows(path, tree, mesh.n_points)
    _same_points(path, tree, rows, mesh)
    return {name: torch.from_numpy(values[rows]) for name, values in fields.items()}


def _rows(path: Path, tree: Tree, n: int) -> np.ndarray:
    """The row of each point."""
    ids = tree["ids"]
    if ids is None:
        return np.arange(n)
    if len(np.unique(ids)) != n or ids.min() != 0 or ids.max() != n - 1:
        raise InputError(f"{path}: PointID does not name each of {n} points once")
    return np.argsort(ids)


def _same_points(path: Path, tree: Tree, rows: np.ndarray, mesh: Mesh) -> None:
    if tree["points"] is None:
        return
    mine, theirs = mesh.points.double().numpy(), tree["points"][rows]
    if theirs.shape[1] < mine.shape[1]:
        raise InputError(
            f"{path}: coordinates in {theirs.shape[1]}-D, the mesh is {mine.shape[1]}-D"
        )
    away = np.abs(theirs[:, : mine.shape[1]] - mine).max(1)
    worst = int(np.argmax(away))
    if away[worst] > 1e-5 * np.ptp(mine, axis=0).max():
        raise InputError(
            f"{path}: point {worst} is {away[worst]:.3g} away from the mesh's: another mesh?"
        )


class _Files:
    """Steps in files, the last one read kept."""

    def __init__(self, paths: list[Path], mesh: Mesh, names: list[str], trust: bool):
        self.paths, self.mesh, self.names, self.trust = paths, mesh, names, trust
        self.kept: tuple[int, dict[str, torch.Tensor]] | None = None

    def step(self, t: int) -> dict[str, torch.Tensor]:
        """All fields at a step."""
        if self.kept is None or self.kept[0] != t:
            found = _fields(self.paths[t], self.mesh, self.trust)
            missing = [name for name in self.names if name not in found]
            if missing:
                raise InputError(f"{self.paths[t]}: has no column {', '.join(missing)}")
            self.kept = (t, found)
        return self.kept[1]


class _Column:
    """One field of `_Files` as frames."""

    def __init__(self, source: _Files, name: str):
        self.source, self.name = source, name

    def __len__(self) -> int:
        return len(self.source.paths)

    def __getitem__(self, t: int) -> torch.Tensor:
        if not -len(self) <= t < len(self):
            raise IndexError(t)
        return self.source.step(t % len(self))[self.name]
