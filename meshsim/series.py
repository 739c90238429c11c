"""Series: one mesh, times and fields that change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from meshsim.check import InputError, check_known
from meshsim.mesh import Mesh, as_tensor, freeze, thaw


@runtime_checkable
class Frames(Protocol):
    """Values at each time, read when asked for: `frames[t]` is array-like (N, …) or (C, …)."""

    def __len__(self) -> int: ...
    def __getitem__(self, t: int) -> Any: ...


@dataclass(frozen=True)
class Picked:
    """Some frames of others: `frames[first + step * t]` for t in 0..count-1."""

    frames: Frames
    first: int
    step: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, t: int) -> Any:
        if not -self.count <= t < self.count:
            raise IndexError(t)
        return self.frames[self.first + self.step * (t % self.count)]


class Series:
    """One mesh with fields at T times; frames are read lazily, one at a time.

    Arguments:
        mesh: the mesh; its own fields are constant in time.
        times: (T,) rising, in the file's unit (seconds for flow solvers).
        point_fields: {name: (T, N, …) array or `Frames`}.
        cell_fields: {name: (T, C, …) array or `Frames`}.
        points: (T, N, D) moving points, array or `Frames`; None when they rest.
        later: further segments, where the topology changed.

    Raises:
        InputError: a field whose number of frames is not T, times that do not rise.

    >>> mesh = Mesh([[0., 0.], [1., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]})
    >>> series = Series(mesh, [0.0, 0.5], {"p": [[0., 0., 0.], [1., 1., 1.]]})
    >>> series.at(0.25).point_fields["p"]
    tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """

    def __init__(
        self,
        mesh: Mesh,
        times: Any,
        point_fields: Mapping[str, Any] | None = None,
        cell_fields: Mapping[str, Any] | None = None,
        points: Any | None = None,
        later: tuple[Series, ...] = (),
    ):
        self.mesh = mesh
        self.times = as_tensor(times, torch.float64)  # (T,)
        rises = self.times.dim() == 1 and len(self.times) > 0
        if not (rises and self.times.isfinite().all() and (self.times.diff() > 0).all()):
            raise InputError("`times`: expected a rising list of at least one time")
        self.point_fields: Mapping[str, Frames] = MappingProxyType(dict(point_fields or {}))
        self.cell_fields: Mapping[str, Frames] = MappingProxyType(dict(cell_fields or {}))
        self.points: Frames | None = points
        self.later = later
        for name, frames in self.point_fields.items():
            self._check(name, frames, mesh.n_points, "points")
        for name, frames in self.cell_fields.items():
            self._check(name, frames, mesh.n_cells, "cells")
        if points is not None:
            self._check("points", points, mesh.n_points, "points")

    def _check(self, name: str, frames: Any, n: int, of: str) -> None:
        if len(frames) != len(self.times):
            raise InputError(
                f"`{name}`: expected {len(self.times)} frames (one a time), got {len(frames)}"
            )
        shape = getattr(frames, "shape", None)  # what is read lazily may not know it yet
        if shape is not None and (len(shape) < 2 or shape[1] != n):
            raise InputError(
                f"`{name}`: expected shape ({len(self.times)}, {n}, …), one row for each of the"
                f" {of}, got {tuple(shape)}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return thaw(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(freeze(state))

    def __len__(self) -> int:
        return len(self.times)

    def frame(self, t: int) -> Mesh:
        """The mesh at time index `t` (negative counts from the end), with that time's fields."""
        if not -len(self) <= t < len(self):
            raise InputError(f"frame {t} is outside 0..{len(self) - 1} ({len(self)} times)")
        t %= len(self)
        mesh = self.mesh.with_fields(
            {name: as_tensor(f[t]) for name, f in self.point_fields.items()},
            {name: as_tensor(f[t]) for name, f in self.cell_fields.items()},
        )
        return mesh if self.points is None else mesh.replace(points=as_tensor(self.points[t]))

    def __getitem__(self, times: slice) -> Series:
        """Part of the series, `series[first:last:step]`, read as lazily as the whole."""
        if not isinstance(times, slice):
            raise InputError(f"series[{times}]: a part is series[first:last]; one time is frame(t)")
        picked = range(len(self))[times]
        if not picked or picked.step < 1:
            raise InputError(f"{times}: expected a part of 0..{len(self) - 1} that is not empty")

        def part(frames: Frames) -> Frames:
            return Picked(frames, picked.start, picked.step, len(picked))

        return Series(
            self.mesh,
            self.times[times],
            {name: part(f) for name, f in self.point_fields.items()},
            {name: part(f) for name, f in self.cell_fields.items()},
            None if self.points is None else part(self.points),
        )

    def __iter__(self) -> Iterator[Mesh]:
        return (self.frame(t) for t in range(len(self)))

    def field(self, name: str) -> Tensor:
        """(T, N|C, …): every frame of one field, stacked in memory; of points first."""
        check_known(name, [*self.point_fields, *self.cell_fields], "field of the series")
        frames = self.point_fields[name] if name in self.point_fields else self.cell_fields[name]
        return torch.stack([as_tensor(frames[t]) for t in range(len(self))])

    def at(self, time: float) -> Mesh:
        """The mesh at any time inside the series, linear between the two nearest frames."""
        first, last = float(self.times[0]), float(self.times[-1])
        if not first <= time <= last:
            raise InputError(f"time {time:g} is outside the series ({first:g} to {last:g})")
        after = int(torch.searchsorted(self.times, time))
        if float(self.times[after]) == time:
            return self.frame(after)
        a, b = self.frame(after - 1), self.frame(after)
        step = float(self.times[after] - self.times[after - 1])
        w = (time - float(self.times[after - 1])) / step

        def mix(x: Tensor, y: Tensor) -> Tensor:
            return torch.lerp(x, y, w) if x.is_floating_point() else x

        return a.replace(
            points=mix(a.points, b.points),
            point_fields={k: mix(v, b.point_fields[k]) for k, v in a.point_fields.items()},
            cell_fields={k: mix(v, b.cell_fields[k]) for k, v in a.cell_fields.items()},
        )

    @property
    def segments(self) -> tuple[Series, ...]:
        """This segment and the later ones; each has its own topology."""
        return (self, *self.later)

    def __repr__(self) -> str:
        first, last = float(self.times[0]), float(self.times[-1])
        names = " ".join([*self.point_fields, *self.cell_fields])
        more = f", {len(self.later)} later segments" if self.later else ""
        return f"Series({len(self)} times {first:g}…{last:g}, {names} on {self.mesh!r}{more})"
