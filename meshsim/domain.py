"""Domain: where a branch that fills the space about a body had its places in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.body import Body, body_of
from meshsim.check import InputError
from meshsim.mesh import Mesh

SOME = 512  # places about a body whose distances are measured
LEVELS = 17  # quantiles of the distances that are kept
NEARBY = 0.25  # of the body's longest side: up to there places are drawn off its surface
TRIES = 4  # places that are drawn for each that is wanted


class Places(NamedTuple):
    """Where a branch's places are about a body, in the unit of the files.

    Arguments:
        body: (2, D) lowest and highest coordinates of the body.
        box: (2, D) of the places.
        distances: (n,) of some of them from the body, outside of it.
    """

    body: Tensor
    box: Tensor
    distances: Tensor

    @classmethod
    def of(cls, pos: Float[Tensor, "N D"], body: Mesh, measured: bool = True) -> Places:
        """Those of a sample; distances are none unless they are to be measured."""
        pos, own = pos.detach().double().cpu(), body.box.double().cpu()
        some = pos[:: len(pos) // SOME + 1] if measured else pos[:0]
        found = body_of(body).distance(some).distance if measured else some[:, 0]
        box, about = (torch.stack([x.amin(0), x.amax(0)]) for x in (own, pos))
        return cls(box, about, found[found > 0])


@dataclass(frozen=True)
class Domain:
    """A box about a body, and how far from the body the places in it were.

    In the coordinates of a model, (x − origin) / length: see `meshsim.clouds.Frame`.

    Arguments:
        low, high: (D,) of the box.
        distances: quantiles of the distances from the body, at even shares, outside of it.

    Raises:
        InputError: a box or distances that are none.
    """

    low: Sequence[float]
    high: Sequence[float]
    distances: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or len(self.distances) < 2:
            raise InputError(f"domain: expected a box and distances, got {self}")

    @classmethod
    def of(
        cls, found: Sequence[Places], frame: Callable[[Tensor], tuple[Tensor, float]]
    ) -> Domain | None:
        """The mean box, and the mean quantiles of the distances, of some samples.

        Arguments:
            found: where places are about their bodies.
            frame: origin and length of the model's coordinates by the body's points.

        Returns:
            None if no places outside of a body are known.
        """
        boxes, rows = [], []
        levels = torch.linspace(0, 1, LEVELS, dtype=torch.float64)
        for body, box, distances in found:
            origin, length = frame(body)
            boxes.append((box - origin) / length)
            if len(distances):
                rows.append(distances.quantile(levels) / length)
        if not rows:
            return None
        box = torch.stack(boxes).mean(0)
        return cls(box[0].tolist(), box[1].tolist(), torch.stack(rows).mean(0).tolist())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def draw(
        self, body: Body, origin: Float[Tensor, " D"], length: float, count: int, seed: int = 0
    ) -> Float[Tensor, "n D"]:
        """Places about a body like those of the training: in the box, outside of the body.

        As many from each part of the distances. Half of those to choose from are even in the box,
        half lie off the body's surface along its normals, for layers so thin that a box has next
        to no room in them.

        Arguments:
            body: in the unit of the files.
            origin, length: of the model's coordinates about that body.
            count: how many.
            seed: the same seed gives the same places.

        Returns:
            (n, D) float64 in the unit of the files and in random order, n ≤ `count`; none where
            the box has no room outside of the body.

        >>> ends = [[0, 1], [1, 2], [2, 0]]
        >>> body = Body.of(Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"line": ends}))
        >>> domain = Domain([-1.0, -1.0], [2.0, 2.0], [0.0, 0.1, 1.0])
        >>> places = domain.draw(body, torch.zeros(2).double(), 1.0, 10)
        >>> places.shape, bool((body.distance(places).distance > 0).all())
        (torch.Size([10, 2]), True)
        """
        random = torch.Generator().manual_seed(seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=random, dtype=torch.float64)

        low, high = (
            torch.tensor(end, dtype=torch.float64) * length + origin
            for end in (self.low, self.high)
        )
        levels = torch.tensor(self.distances, dtype=torch.float64) * length
        n = TRIES * count
        even = low + uniform(n, len(low)) * (high - low)
        share = uniform(n) * (len(levels) - 1)
        below = share.long().clamp_max(len(levels) - 2)
        off = torch.lerp(levels[below], levels[below + 1], share - below)
        on = body.sample(n, random)
        near = (on.points + off[:, None] * on.normals)[off <= NEARBY * body.length]
        places = torch.cat([even, near])
        places = places[((places >= low) & (places <= high)).all(1)]
        distance = body.distance(places).distance
        known = (distance > 0) & (distance <= levels[-1])
        places, distance = places[known], distance[known]
        order = torch.randperm(len(places), generator=random)
        places, part = places[order], torch.bucketize(distance[order], levels[1:-1])
        rank = torch.empty_like(part)  # which of its part each place is
        for k in range(len(levels) - 1):
            rows = (part == k).nonzero().squeeze(1)
            rank[rows] = torch.arange(len(rows))
        first = rank.argsort(stable=True)[:count]  # the first of each part, the second of each, …
        return places[first][torch.randperm(len(first), generator=random)]
