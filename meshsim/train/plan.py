"""The plan of a run: its stages, how many steps each gets, and how far the work is."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from meshsim.train.config import TrainConfig, at

# A pass without gradients costs about a third of one with them.
_NO_GRADIENT = 0.35


@dataclass(frozen=True)
class Stage:
    """A part of the run in which batch and lengths stay the same.

    Arguments:
        start: share of the run's work at which it begins.
        share: its own share of the work.
        batch, unroll, pushforward: see `TrainConfig`.
    """

    start: float
    share: float
    batch: int
    unroll: int
    pushforward: int

    @property
    def work(self) -> float:
        """Work of one step, in differentiated passes over one window."""
        return self.batch * (self.unroll + _NO_GRADIENT * self.pushforward)


def stages(train: TrainConfig) -> list[Stage]:
    """The stages that the ramps of `batch`, `unroll` and `pushforward` cut the run into.

    >>> [(s.unroll, s.batch) for s in stages(TrainConfig(steps=9, unroll=[[0.0, 1.0], [0.5, 4.0]]))]
    [(1, 1), (4, 1)]
    """
    ramps = (train.batch, train.unroll, train.pushforward)
    starts = sorted({0.0} | {float(pair[0]) for r in ramps if isinstance(r, list) for pair in r})
    ends = [*starts[1:], 1.0]
    return [
        Stage(a, b - a, *(int(at(ramp, a)) for ramp in ramps))
        for a, b in zip(starts, ends, strict=True)
    ]


@dataclass(frozen=True)
class Plan:
    """Steps of each stage and what a step of it costs; fixed when a run starts.

    Arguments:
        stages: in order.
        counts: steps of each stage.
        costs: of one step of each stage, in any unit.
    """

    stages: tuple[Stage, ...]
    counts: tuple[int, ...]
    costs: tuple[float, ...]

    @classmethod
    def of_steps(cls, parts: list[Stage], steps: int) -> Plan:
        """Share `steps` out so that each stage gets its share of the work.

        >>> plan = Plan.of_steps(stages(TrainConfig(steps=1, unroll=[[0.0, 1.0], [0.5, 4.0]])), 100)
        >>> plan.counts
        (80, 20)
        """
        raw = [s.share / s.work for s in parts]
        ends = [round(steps * total / sum(raw)) for total in accumulate(raw)]
        counts = tuple(b - a for a, b in zip([0, *ends], ends, strict=False))
        return cls(tuple(parts), counts, tuple(s.work for s in parts))

    @classmethod
    def of_seconds(cls, parts: list[Stage], seconds: float, costs: list[float]) -> Plan:
        """As many steps as fit into `seconds` when a step of each stage takes `costs` seconds."""
        counts = tuple(
            max(1, int(seconds * s.share / c)) for s, c in zip(parts, costs, strict=True)
        )
        return cls(tuple(parts), counts, tuple(costs))

    @property
    def steps(self) -> int:
        """Steps in all."""
        return sum(self.counts)

    def stage(self, step: int) -> int:
        """Index of the stage that step `step` (from 0) belongs to."""
        return bisect_right(list(accumulate(self.counts)), step)

    def share(self, step: int) -> float:
        """How much of the work is done before step `step`, from 0 to 1."""
        done, left = 0.0, step
        for count, cost in zip(self.counts, self.costs, strict=True):
            done += min(left, count) * cost
            left = max(0, left - count)
        return done / sum(n * c for n, c in zip(self.counts, self.costs, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the run's record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Plan:
        """What `to_dict` gave."""
        parts = tuple(Stage(**s) for s in raw["stages"])
        return cls(parts, tuple(raw["counts"]), tuple(raw["costs"]))
