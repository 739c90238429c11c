"""Exact streaming statistics, and the normaliser made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meshsim.check import InputError, check_known, check_shape
from meshsim.data.frames import block_length, read_block
from meshsim.data.schema import Schema, columns, find
from meshsim.mesh import ArrayLike, as_tensor
from meshsim.sample import Sample
from meshsim.series import Frames, Series


class Moments:
    """Count, mean, sum of squared deviations, minimum and maximum of each component.

    Values stream through in any chunks, in float64: with δ the difference of the means of A and B,
    M2(A and B) = M2(A) + M2(B) + δ² n(A) n(B) / (n(A) + n(B))
    (Chan, Golub and LeVeque 1983, eq. 2.1).

    Arguments:
        components: C, numbers a row.

    >>> m = Moments(1).update([[1.0], [2.0]]).update([[6.0]])
    >>> m.count, m.mean.item(), m.m2.item(), m.min.item(), m.max.item()
    (3, 3.0, 14.0, 1.0, 6.0)
    """

    def __init__(self, components: int):
        self.count = 0
        self.mean = torch.zeros(components, dtype=torch.float64)  # (C,)
        self.m2 = torch.zeros(components, dtype=torch.float64)  # (C,)
        self.min = torch.full((components,), torch.inf, dtype=torch.float64)  # (C,)
        self.max = torch.full((components,), -torch.inf, dtype=torch.float64)  # (C,)

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def variance(self) -> Float[Tensor, " C"]:
        """M2 / count, the population's variance."""
        return self.m2 / max(self.count, 1)

    @property
    def std(self) -> Float[Tensor, " C"]:
        """Square root of the variance."""
        return self.variance.sqrt()

    @property
    def scale(self) -> Float[Tensor, " C"]:
        """The standard deviation, 1 where a component is constant (up to its round-off)."""
        return torch.where(self.constant, torch.ones_like(self.mean), self.std)

    @property
    def constant(self) -> Bool[Tensor, " C"]:
        """Which components are the same everywhere, up to their round-off."""
        size = torch.maximum(self.min.abs(), self.max.abs())
        return (self.max <= self.min) | (self.std <= 1e-10 * size)

    def update(self, x: ArrayLike) -> Moments:
        """Take in rows (…, C); the moments themselves change and are returned.

        Raises:
            InputError: another number of components, values that are not finite.
        """
        rows = as_tensor(x).detach().to("cpu", torch.float64)
        if rows.dim() == 0 or rows.shape[-1] != len(self):
            raise InputError(
                f"statistics of {len(self)} components cannot take shape {tuple(rows.shape)}"
            )
        rows = rows.reshape(-1, len(self))  # (n, C)
        if not len(rows):
            return self
        part = Moments(len(self))
        part.count = len(rows)
        part.mean = rows.mean(0)
        part.m2 = (rows - part.mean).square().sum(0)
        part.min, part.max = torch.aminmax(rows, dim=0)
        if not bool(torch.isfinite(part.m2).all()):
            raise InputError("values are not finite (NaN or infinite)")
        return self.merge(part)

    def merge(self, other: Moments) -> Moments:
        """Take in the moments of other rows; the moments themselves change and are returned."""
        if len(other) != len(self):
            raise InputError(f"statistics of {len(self)} and {len(other)} components do not merge")
        if not other.count:
            return self
        total = self.count + other.count
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.count / total)
        self.m2 = self.m2 + other.m2 + delta.square() * (self.count * (other.count / total))
        self.min = torch.minimum(self.min, other.min)
        self.max = torch.maximum(self.max, other.max)
        self.count = total
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; float64 comes back bit for bit."""
        arrays = {key: getattr(self, key).tolist() for key in ("mean", "m2", "min", "max")}
        return {"count": self.count, **(arrays if self.count else {"mean": arrays["mean"]})}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Moments:
        """The moments that `to_dict` wrote."""
        out = cls(len(table["mean"]))
        out.count = int(table["count"])
        if out.count:
            for key in ("mean", "m2", "min", "max"):
                setattr(out, key, torch.tensor(table[key], dtype=torch.float64))
        return out

    def __repr__(self) -> str:
        return f"Moments(count={self.count}, mean={self.mean.tolist()}, std={self.std.tolist()})"


class Normaliser(nn.Module):
    """Zero mean and unit deviation for named quantities: encode(x) = (x − mean) / std.

    Quantities are field values ("velocity"), rates of states ("velocity.rate"), and whatever else
    statistics are given for ("edge_attr", features). Constant components get std 1, and decode to
    that constant whatever y is. A quantity with a reference `scale` gets mean 0 and that std.

    Arguments:
        statistics: {quantity: Moments, or (mean, std) of (C,) each, or (mean, std, constant)}.
        schema: supplies the reference scales.

    >>> normaliser = Normaliser({"p": Moments(1).update([[1.0], [3.0]])})
    >>> normaliser.encode("p", torch.tensor([[5.0]]))
    tensor([[3.]])
    """

    def __init__(
        self,
        statistics: Mapping[str, Moments | tuple[ArrayLike, ...]],
        schema: Schema | None = None,
    ):
        super().__init__()
        self.names: tuple[str, ...] = tuple(statistics)
        for name, given in statistics.items():
            parts = (
                (given.mean, given.scale, given.constant & (given.count > 0))
                if isinstance(given, Moments)
                else [torch.atleast_1d(as_tensor(x)).double() for x in given]
            )
            mean, std = parts[:2]
            constant = parts[2].bool() if len(parts) > 2 else torch.zeros_like(mean).bool()
            if schema is not None and name in schema and schema[name].scale is not None:
                mean, std = torch.zeros_like(mean), torch.full_like(std, schema[name].scale or 1.0)
                constant = torch.zeros_like(constant)
            check_shape(std, tuple(mean.shape), f"std of {name}")
            check_shape(constant, tuple(mean.shape), f"constant components of {name}")
            if not bool((std > 0).all()):
                raise InputError(f"std of {name}: expected above 0, got {std.tolist()}")
            # float64 whatever the model's dtype: cast at use, so that decode undoes encode
            self.register_buffer(_buffer("mean", name), mean.clone())
            self.register_buffer(_buffer("std", name), std.clone())
            self.register_buffer(_buffer("constant", name), constant.clone(), persistent=False)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def mean(self, name: str) -> Float[Tensor, " C"]:
        """(C,) mean of a quantity."""
        check_known(name, self.names, "normalised quantity")
        return self.get_buffer(_buffer("mean", name))

    def std(self, name: str) -> Float[Tensor, " C"]:
        """(C,) deviation of a quantity, never 0."""
        check_known(name, self.names, "normalised quantity")
        return self.get_buffer(_buffer("std", name))

    def constant(self, name: str) -> Bool[Tensor, " C"]:
        """(C,) which components never changed."""
        check_known(name, self.names, "normalised quantity")
        return self.get_buffer(_buffer("constant", name))

    def encode(self, name: str, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        """(x − mean) / std, in the dtype of `x`."""
        self._check(name, x)
        return (x - self.mean(name).to(x)) / self.std(name).to(x)

    def decode(self, name: str, y: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        """y · std + mean, in the dtype of `y`; the mean where a component is constant."""
        self._check(name, y)
        mean, fixed = self.mean(name).to(y), self.constant(name).to(y.device)
        return torch.where(fixed, mean, y * self.std(name).to(y) + mean)

    def _check(self, name: str, x: Tensor) -> None:
        components = len(self.mean(name))
        if x.dim() == 0 or x.shape[-1] != components:
            raise InputError(
                f"`{name}`: expected {components} components last, got shape {tuple(x.shape)}"
            )

    def to_dict(self) -> dict[str, dict[str, list[float]]]:
        """`{quantity: {"mean": […], "std": […]}}` for JSON, "constant" too where any is."""
        return {
            name: {"mean": self.mean(name).tolist(), "std": self.std(name).tolist()}
            | ({"constant": held.tolist()} if bool((held := self.constant(name)).any()) else {})
            for name in self.names
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Mapping[str, list[float]]]) -> Normaliser:
        """The normaliser that `to_dict` wrote."""
        parts = ("mean", "std", "constant")
        return cls({n: tuple(e[part] for part in parts if part in e) for n, e in table.items()})


def _buffer(kind: str, name: str) -> str:
    # torch refuses dots in buffer names, and "velocity.rate" has one
    return f"{kind}:" + name.replace("%", "%25").replace(".", "%2E")


def blocks(frames: Frames, overlap: int = 0) -> Iterator[tuple[int, Shaped[Tensor, "T N C"]]]:
    """All frames in order as (first index, (T, N, C)) of a few MiB; blocks may share `overlap`."""
    total = len(frames)
    first = read_block(frames, 0, 1)
    step = block_length(first.numel() * first.element_size())
    tail = columns(first[:0], 2)
    for start in range(0, total, step):
        block = columns(read_block(frames, start, min(start + step, total)), 2)
        joined = torch.cat([tail, block]) if overlap else block  # (≤ overlap + step, N, C)
        yield start - (len(joined) - len(block)), joined
        tail = joined[-overlap:] if overlap else tail


def rate_moments(
    frames: Frames,
    times: Float[Tensor, " T"],
    stride: int,
    where: Shaped[Tensor, " n"] | None = None,
) -> Moments:
    """Moments of (u[t + s] − u[t]) / (time[t + s] − time[t]) over all frames t and all rows.

    Arguments:
        frames: T frames (N, …).
        times: (T,) rising.
        stride: s ≥ 1, in frames.
        where: rows to take, (n,) int64 or (N,) bool; None for all.
    """
    moments = Moments(columns(read_block(frames, 0, 1), 2).shape[2])
    if len(frames) <= stride:
        return moments
    for start, block in blocks(frames, stride):
        if len(block) <= stride:
            continue
        values = (block if where is None else block[:, where]).double()
        span = times[start : start + len(block)].double()
        dt = (span[stride:] - span[:-stride])[:, None, None]
        moments.update((values[stride:] - values[:-stride]) / dt)
    return moments


def field_moments(
    sample: Sample,
    schema: Schema,
    *,
    stride: int = 1,
    branch: str | None = None,
    where: Shaped[Tensor, " n"] | None = None,
) -> dict[str, Moments]:
    """Moments of every field of the schema, and of the rate of every state, in one sample.

    Arguments:
        sample: must fit the schema.
        schema: the fields.
        stride: frames between the two states of a rate.
        branch: take this branch only.
        where: rows of point and cell fields to take, (n,) int64 or (N,) bool; None for all.

    Returns:
        {"velocity": …, "velocity.rate": …, "inflow": …}.
    """
    out: dict[str, Moments] = {}
    for field in schema:
        out[field.name] = Moments(field.components)
        rows = where if field.location in ("point", "cell") else None
        for place in find(sample, field, branch):
            if place.frames is None:
                assert place.values is not None
                values = columns(place.values, 1)
                out[field.name].update(values if rows is None else values[rows])
            else:
                for _, block in blocks(place.frames):
                    out[field.name].update(block if rows is None else block[:, rows])
    for field in schema.states:
        rate = out[f"{field.name}.rate"] = Moments(field.components)
        for name, content in sample.branches.items():
            if branch is not None and name != branch:
                continue
            for part in content.segments if isinstance(content, Series) else ():
                moving = part.point_fields if field.location == "point" else part.cell_fields
                if field.name in moving:
                    rate.merge(rate_moments(moving[field.name], part.times, stride, where))
    return out


def merge_moments(tables: Iterator[Mapping[str, Moments]]) -> dict[str, Moments]:
    """One table of moments of many, quantity by quantity, in the given order."""
    out: dict[str, Moments] = {}
    for table in tables:
        for name, moments in table.items():
            out.setdefault(name, Moments(len(moments))).merge(moments)
    return out
