"""Windows: short runs of consecutive states out of the series of a store."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from meshsim.check import InputError, check_known, whole_number
from meshsim.data.disk import StoredFrames
from meshsim.data.schema import Field, Schema, columns, find_in
from meshsim.data.store import Store
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Frames, Series


@dataclass(frozen=True)
class _Source:
    """One segment of a sample: its part, and how many windows start where in it."""

    name: str
    segment: int
    part: Mesh | Series
    sample: Sample
    starts: range


class Windows:
    """All windows of `length` states, `stride` frames apart, of some samples.

    A window never crosses a change of topology. A steady sample gives one window of length 1.
    What is read stays in memory up to a limit, so that a small data set is read once. An object
    can be sent to a spawned process; the memory does not travel.

    Arguments:
        store: where the samples are.
        names: a split of the store, or names of samples.
        length: states a window, L ≥ 1.
        stride: frames from one state to the next.
        schema: the fields; default: the store's.
        branch: which branch of the samples; None: their only one.
        frames: (first, end) of each segment to use; None: all.
        every: only each `every`-th start.
        dtype: of floating-point values.
        cache_bytes: how much to keep in memory.

    Raises:
        InputError: no schema, no samples, a field missing, no series long enough.
    """

    def __init__(
        self,
        store: Store,
        names: str | Sequence[str],
        length: int,
        stride: int = 1,
        *,
        schema: Schema | None = None,
        branch: str | None = None,
        frames: tuple[int, int] | None = None,
        every: int = 1,
        dtype: torch.dtype = torch.float32,
        cache_bytes: int = 4 << 30,
    ):
        length, stride = whole_number(length, "length"), whole_number(stride, "stride")
        every = whole_number(every, "every")
        fields = schema or store.schema
        if fields is None:
            raise InputError(f"{store.path}: the store has no schema: say which fields there are")
        self.store, self.schema, self.length, self.stride = store, fields, length, stride
        self.names, self.dtype = store.members(names), dtype
        self._options = {
            "branch": branch,
            "frames": frames,
            "every": every,
            "dtype": dtype,
            "cache_bytes": cache_bytes,
        }
        self._cache = _Cache(cache_bytes, dtype)
        self._sources: list[_Source] = []
        for name in self.names:
            sample = store.sample(name)
            fields.check(sample, values=False)
            self._sources += _sources(sample, branch, (length - 1) * stride, frames, every, fields)
        self._ends = list(accumulate(len(source.starts) for source in self._sources))
        if not len(self):
            raise InputError(
                f"{store.path}: no window of {length} states {stride} frames apart in "
                f"{len(self.names)} samples"
            )

    def __getstate__(self) -> tuple[Any, ...]:
        first = (self.store, self.names, self.length, self.stride)
        return first, self._options | {"schema": self.schema}

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state[0], **state[1])  # type: ignore[misc]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def where(self, i: int) -> tuple[str, int, int]:
        """Sample name, segment and first frame of window `i`."""
        source, start = self._find(i)
        return source.name, source.segment, start

    def mesh(self, name: str, segment: int = 0) -> Mesh:
        """The mesh of a sample's segment; the same object at every call."""
        for source in self._sources:
            if (source.name, source.segment) == (name, segment):
                return source.part.mesh if isinstance(source.part, Series) else source.part
        known = [f"{s.name} (segment {s.segment})" for s in self._sources]
        check_known(f"{name} (segment {segment})", known, "sample with windows:")
        raise AssertionError

    def load(self, i: int) -> dict[str, Any]:
        """Window `i`; do not write into its tensors, they may be views of what is kept in memory.

        Returns:
            {"name": sample, "segment": int, "start": first frame,
            "times": (L,) float64 (steady: None),
            "states": {field: (L, N|C, c)},
            "targets": {field: (L, n, c), or (n, c) where it does not change in time},
            "parameters": {field: (1, c) for global ones, else like targets},
            "points": (L, N, D) where the points move, else None}.
        """
        source, start = self._find(i)
        indices = range(start, start + (self.length - 1) * self.stride + 1, self.stride)
        part = source.part
        out: dict[str, Any] = {
            "name": source.name,
            "segment": source.segment,
            "start": start,
            "times": part.times[indices.start : indices.stop : self.stride]
            if isinstance(part, Series)
            else None,
            "states": {},
            "targets": {},
            "parameters": {},
            "points": None,
        }
        for field in self.schema:
            key = (source.name, source.segment, field.name)
            out[f"{field.role}s"][field.name] = self._values(source, field, key, indices)
        if isinstance(part, Series) and part.points is not None:
            key = (source.name, source.segment, "")
            out["points"] = self._cache.frames(key, part.points, indices)
        return out

    __getitem__ = load

    def _find(self, i: int) -> tuple[_Source, int]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"window {i} is outside 0..{len(self) - 1}")
        i %= len(self)
        k = bisect_right(self._ends, i)
        source = self._sources[k]
        return source, source.starts[i - (self._ends[k] - len(source.starts))]

    def _values(self, source: _Source, field: Field, key: _Key, indices: range) -> Tensor:
        if field.location == "global" and field.name in source.sample.parameters:
            value = source.sample.parameters[field.name]
            return self._cache.get((*key, -1), lambda: value.reshape(1, -1))
        part = source.part
        moving = {} if isinstance(part, Mesh) else _moving(part, field)
        if field.name in moving:
            return self._cache.frames(key, moving[field.name], indices)
        place = next(find_in(part, field))
        values = self._cache.get((*key, -1), lambda: _steady(place.values))
        # a steady sample's state is a series of one
        return values[None] if field.role == "state" else values


_Key = tuple[str, int, str]


class _Cache:
    """What was read last, in one dtype, (…, n, c); the oldest goes when the limit is reached."""

    def __init__(self, limit: int, dtype: torch.dtype):
        self.limit, self.dtype = limit, dtype
        self.held: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()
        self.size = 0

    def get(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
        """What is kept under a key; made, and kept if it fits, when it is not there."""
        if key in self.held:
            self.held.move_to_end(key)
            return self.held[key]
        made = make()
        values = made.to(self.dtype) if made.is_floating_point() else made
        if values.nbytes > self.limit:
            return values
        self.held[key] = values
        self.size += values.nbytes
        while self.size > self.limit:
            _, old = self.held.popitem(last=False)
            self.size -= old.nbytes
        return values

    def frames(self, key: _Key, frames: Frames, indices: range) -> Tensor:
        """Frames at the indices, (L, N, c); a view where they lie in one chunk."""
        assert isinstance(frames, StoredFrames)
        length, parts, i = frames.chunk_length, [], 0
        while i < len(indices):
            k = indices[i] // length
            first = indices[i] - k * length
            n = min(len(range(first, length, indices.step)), len(indices) - i)
            chunk = self.get((*key, k), lambda k=k: columns(frames.chunk(k), 2))  # type: ignore[misc]
            parts.append(chunk[first : first + (n - 1) * indices.step + 1 : indices.step])
            i += n
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _steady(values: Tensor | None) -> Tensor:
    assert values is not None
    return columns(values, 1)


def _moving(part: Series, field: Field) -> dict[str, Frames]:
    tables = {"point": part.point_fields, "cell": part.cell_fields}
    return dict(tables.get(field.location, {}))


def _sources(
    sample: Sample,
    branch: str | None,
    span: int,
    frames: tuple[int, int] | None,
    every: int,
    schema: Schema,
) -> list[_Source]:
    if branch is not None:
        check_known(branch, sample.branches, f"branch of sample {sample.name!r}:")
    content = sample.branch if branch is None else sample.branches[branch]
    out = []
    parts: tuple[Mesh | Series, ...] = (
        content.segments if isinstance(content, Series) else (content,)
    )
    for n, part in enumerate(parts):
        for field in schema:
            here = field.location == "global" and field.name in sample.parameters
            found = here or next(find_in(part, field), None)
            if found is None:
                raise InputError(
                    f"sample {sample.name!r}: field {field.name!r} is missing in segment {n} of "
                    f"branch {branch or next(iter(sample.branches))!r}"
                )
            moving = isinstance(part, Series) and field.name in _moving(part, field)
            if field.role == "state" and isinstance(part, Series) and not moving:
                raise InputError(
                    f"sample {sample.name!r}: state {field.name!r} does not change in time"
                )
        total = len(part) if isinstance(part, Series) else 1
        first, end = frames or (0, total)
        starts = range(first, min(end, total) - span, every)
        out.append(_Source(sample.name, n, part, sample, starts))
    return out
