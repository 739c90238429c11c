"""What neural-field models share: encode a geometry once, decode fields at any points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim.check import InputError
from meshsim.ops.neighbors import knn

Fields = dict[str, Tensor]
NEAREST, TILE = 8, 1 << 14  # points that say how far a cloud is; points decoded at once


class Points(NamedTuple):
    """Places and what is known there.

    Arguments:
        pos: (B, N, D) coordinates.
        x: (B, N, F) features.
    """

    pos: Tensor
    x: Tensor


@dataclass(frozen=True)
class Branch:
    """One kind of place at which fields are wanted: the surface, the volume, the wheels.

    Arguments:
        inputs: columns of the features of its points.
        outputs: {field: components}.
        curl: fields of D components that are the curl of a potential, and so free of divergence.
        no_slip: whether those fields are zero on the body. Its points then come with the corners
            of the nearest segment or triangle as D² further columns: see `walls`.

    Raises:
        InputError: no outputs, an unknown field in `curl`, or features beside it; no slip of
            nothing.
    """

    inputs: int = 0
    outputs: Mapping[str, int] = field(default_factory=dict)
    curl: tuple[str, ...] = ()
    no_slip: bool = False

    def __post_init__(self) -> None:
        if not self.outputs or min(self.outputs.values()) < 1 or self.inputs < 0:
            raise InputError(f"branch: expected fields of 1 component or more, got {self}")
        for name in self.curl:
            if self.outputs.get(name, 0) not in (2, 3):
                raise InputError(f"branch: curl of {name!r}: expected a vector among its outputs")
        if self.curl and self.inputs:
            # features change with the place, and nobody could say how
            raise InputError("branch: a curl needs points without features")
        if self.no_slip and not self.curl:
            raise InputError("branch: no_slip needs a field in `curl`, which it is part of")

    @classmethod
    def of(cls, given: Branch | Mapping[str, Any]) -> Branch:
        """A branch, or the same as a table."""
        if isinstance(given, Branch):
            return given
        curl, no_slip = tuple(given.get("curl", ())), given.get("no_slip", False)
        return cls(given.get("inputs", 0), dict(given["outputs"]), curl, no_slip)

    def to_dict(self) -> dict[str, Any]:
        """The table that `of` takes."""
        table = {"inputs": self.inputs, "outputs": dict(self.outputs), "curl": list(self.curl)}
        return table | ({"no_slip": True} if self.no_slip else {})

    @property
    def components(self) -> dict[str, int]:
        """{field: numbers that the network gives for it}: of a potential one in a plane."""
        plane = {name: 1 for name in self.curl if self.outputs[name] == 2}
        return {name: plane.get(name, n) for name, n in self.outputs.items()}

    def columns(self, dim: int) -> int:
        """Columns that its points have, those of their walls included."""
        return self.inputs + (dim * dim if self.no_slip else 0)

    def walls(self, points: Points) -> Float[Tensor, "N D E"]:
        """The nearest segment or triangle (D corners) of each point, of all samples in a row."""
        dim = points.pos.shape[2]
        return points.x[..., self.inputs :].reshape(-1, dim, dim)


class FieldModel(nn.Module, ABC):
    """A model that encodes a geometry with parameters, and decodes fields at any points.

    Batches are dense: B samples with as many points each. Queries do not see each other: what is
    decoded at a point does not depend on which others are asked for.

    Every model keeps the `arguments` that it was made from, as plain data.
    """

    arguments: dict[str, Any]

    @abstractmethod
    def encode(
        self,
        geometry: Points,
        parameters: Float[Tensor, "B P"],
        anchors: Mapping[str, Points] | None = None,
    ) -> Any:
        """What `decode` needs to know of B samples.

        Arguments:
            geometry: points of the body's surface in random order, (B, G, D) and (B, G, F).
            parameters: (B, P) normalised.
            anchors: {branch: points} at which a model looks that wants to know where fields will
                be asked for; others pay no heed.
        """

    @abstractmethod
    def decode(self, latent: Any, branch: str, points: Points) -> Fields:
        """{field: (B, N, c)} at points of a branch."""

    def decode_each(self, latent: Any, branch: str, points: Points) -> list[Fields]:
        """`decode` of each member of an ensemble; any other model has one."""
        return [self.decode(latent, branch, points)]

    def training_loss(self, batch: FieldBatch, share: float) -> Tensor:
        """What training makes small: the mean squared error of the normalised fields.

        Arguments:
            batch: points with the fields that are known there.
            share: of the training's steps that are done, 0 to 1.
        """
        latent = self.encode(batch.geometry, batch.parameters, batch.points)
        out = {name: self.decode(latent, name, points) for name, points in batch.points.items()}
        return batch.loss(out)


class FieldBatch(NamedTuple):
    """B samples with targets.

    Arguments:
        geometry: of the bodies.
        parameters: (B, P).
        points: {branch: points}.
        targets: {branch: {field: (B, N, c)}} normalised.
        offsets: {branch: {field: (c,)}}: mean over deviation of each field. With them errors are
            relative to the norm of each sample's own values; without, they are mean squares.
    """

    geometry: Points
    parameters: Tensor
    points: Mapping[str, Points]
    targets: Mapping[str, Fields]
    offsets: Mapping[str, Fields] | None = None

    def loss(self, out: Mapping[str, Fields]) -> Tensor:
        """The sum over branches and fields of the mean squared error, or of the relative L2."""
        total: Tensor | None = None
        for branch, fields in self.targets.items():
            for name, truth in fields.items():
                error = (out[branch][name] - truth).square().flatten(1)  # (B, N c)
                if self.offsets is not None:
                    whole = truth + self.offsets[branch][name].to(truth)
                    norm = whole.square().flatten(1).sum(1).clamp_min(1e-12)
                    term = (error.sum(1) / norm).clamp_min(1e-12).sqrt().mean()
                else:
                    term = error.mean()
                total = term if total is None else total + term
        if total is None:
            raise InputError("no targets: nothing to learn")
        return total


def plain_branches(
    branches: Mapping[str, Branch | Mapping[str, Any]], model: str
) -> dict[str, Branch]:
    """Branches of a model that cannot give the curl of a potential.

    Raises:
        InputError: none at all, or one with a curl.
    """
    out = {name: Branch.of(given) for name, given in branches.items()}
    if not out:
        raise InputError("`branches`: expected 1 or more, got 0")
    for name, branch in out.items():
        if branch.curl:
            raise InputError(f"branch {name!r}: expected no curl, {model} has none; got {branch}")
    return out


def check_sizes(sizes: Mapping[str, int | float]) -> None:
    """Raise `InputError` unless whole numbers are 1 or more and others above 0."""
    for name, size in sizes.items():
        if not size > 0:
            least = "1 or more" if isinstance(size, int) else "above 0"
            raise InputError(f"`{name}`: expected {least}, got {size:g}")


def check_columns(points: Points, dim: int, inputs: int, name: str, least: int = 0) -> None:
    """Raise `InputError` unless points are (B, N, dim) with features (B, N, inputs)."""
    pos, x = points
    if pos.ndim != 3 or pos.shape[2] != dim or x.shape != (*pos.shape[:2], inputs):
        raise InputError(
            f"{name}: expected positions (B, N, {dim}) and features (B, N, {inputs}),"
            f" got {tuple(pos.shape)} and {tuple(x.shape)}"
        )
    if pos.shape[1] < least:
        raise InputError(f"{name}: expected {least} points or more, got {pos.shape[1]}")


def check_parameters(parameters: Tensor, columns: int, samples: int) -> None:
    """Raise `InputError` unless parameters are (samples, columns)."""
    if parameters.shape != (samples, columns):
        got = tuple(parameters.shape)
        raise InputError(f"`parameters`: expected ({samples}, {columns}), got {got}")


def split_fields(branch: Branch, y: Float[Tensor, "B N C"]) -> Fields:
    """{field: (B, N, c)} of all columns of a branch."""
    widths = branch.outputs
    return dict(zip(widths, y.split(list(widths.values()), 2), strict=True))


def in_tiles(rows: Callable[[Points], Tensor], points: Points) -> Float[Tensor, "B N C"]:
    """What a function of points gives, without gradients so many at a time: memory stays small."""
    if torch.is_grad_enabled() or points.pos.shape[1] <= TILE:
        return rows(points)
    parts = zip(*(t.split(TILE, 1) for t in points), strict=True)
    return torch.cat([rows(Points(*part)) for part in parts], 1)


def check_normals(normals: int | None, dim: int, columns: int) -> None:
    """Raise `InputError` unless the features have D columns from `normals` on."""
    if normals is not None and not 0 <= normals <= columns - dim:
        raise InputError(
            f"`normals`: expected the first of {dim} columns among {columns}, got {normals}"
        )


def normals_of(
    features: Float[Tensor, "B G F"], first: int | None, dim: int
) -> Float[Tensor, "B G E"]:
    """Columns `first` to `first` + D made unit vectors, or none of them."""
    if first is None:
        return features[..., :0]
    return F.normalize(features[..., first : first + dim], dim=2)


def cloud_distance(
    cloud: Float[Tensor, "B G D"],
    normals: Float[Tensor, "B G E"],
    places: Float[Tensor, "B N D"],
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N E"]]:
    """Distance of places from the surface that a cloud is drawn from, negative inside.

    Without normals: r₁, the distance of the nearest point. With them the mean f of n_k·(x − q_k)
    over the 8 nearest q_k, weighted by r_k^−2D (an implicit moving least squares; exact at a plane,
    however few points there are), and d² = f² + max(0, r₁² − f² − h²), h² being the mean square
    of |q_k − q₁|: beyond an edge, where the surface's planes go on without it, the nearest point
    counts, and that is outside; gaps between points do not.

    Arguments:
        cloud: (B, G, D) points.
        normals: (B, G, D) of unit length, or (B, G, 0).
        places: (B, N, D); gradients flow to them.

    Returns:
        (B, N) and the mean normals (B, N, D or 0).

    >>> line = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    >>> cloud_distance(line, torch.tensor([[[0.0, 1.0]]]).expand(1, 2, 2), line - 0.25)[0]
    tensor([[-0.2500, -0.2500]])
    """
    size, points, dim = cloud.shape
    signed = normals.shape[2] > 0
    every = torch.arange(size + 1, device=cloud.device)
    k, n = min(NEAREST, points) if signed else 1, places.shape[1]
    flat = cloud.detach().reshape(-1, dim)
    index, _ = knn(flat, places.detach().reshape(-1, dim), k, every * points, every * n)
    away = places[:, :, None] - flat[index].view(size, n, k, dim)  # (B, N, K, D)
    square = away.square().sum(3)  # (B, N, K)
    if not signed:
        return root(square[..., 0]), normals.new_zeros(size, n, 0)
    there = normals.reshape(-1, dim)[index].view(size, n, k, dim)
    weight = square.detach().clamp_min(1e-12) ** -dim
    weight = weight / weight.sum(2, keepdim=True)
    f = ((away * there).sum(3) * weight).sum(2)  # (B, N)
    near, gaps = square[..., 0], (away - away[:, :, :1]).square().sum(3).mean(2)
    f2 = torch.minimum(f.square(), near)
    beyond = (near - f2 - gaps).clamp_min(0)
    far = root(f2 + beyond)
    mean = F.normalize((there * weight[..., None]).sum(2), dim=2)
    return torch.where((f < 0) & (9 * f2 >= beyond), -far, far), mean


def root(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Square root, its derivative at 0 being 0."""
    return torch.where(x > 0, x, 1).sqrt() * (x > 0)


def in_order(points: Points) -> Points:
    """The same points sorted by their coordinates, the first counting most."""
    order = torch.arange(points.pos.shape[1], device=points.pos.device)
    order = order.expand(points.pos.shape[:2])
    for a in reversed(range(points.pos.shape[2])):
        key = points.pos[..., a].gather(1, order)
        order = order.gather(1, key.argsort(dim=1, stable=True))
    rows = torch.arange(len(order), device=order.device)[:, None]
    return Points(points.pos[rows, order], points.x[rows, order])
