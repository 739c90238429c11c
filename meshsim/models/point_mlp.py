"""Point MLP, every point by itself; and what all models need that know points one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim.check import InputError, check_known
from meshsim.models.field import Branch, FieldModel, Fields, Points
from meshsim.nn.fourier import SineCosine
from meshsim.ops.neighbors import knn

NEAREST, TILE = 8, 1 << 14  # points that say how far a cloud is; points decoded at once


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


class Residual(nn.Module):
    """x ← x + W₂ GELU(W₁ n(x)), n being LayerNorm or nothing."""

    def __init__(self, width: int, norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.inner = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B N H"]) -> Float[Tensor, "B N H"]:
        """Rows (B, N, H) to rows (B, N, H)."""
        return x + self.out(F.gelu(self.inner(self.norm(x))))


class Latent(NamedTuple):
    """What a point MLP knows of B samples.

    Arguments:
        known: (B, P + H or P) parameters and the pooled vector.
        cloud, normals: (B, G, D), (B, G, D or 0), from which distances are taken; or no points.
    """

    known: Tensor
    cloud: Tensor
    normals: Tensor


class PointMLP(FieldModel):
    """The baseline: a residual MLP of each point's position and features, and of the parameters.

    With `pooled` a vector goes along that is the mean of an MLP over the geometry's points, so
    that their order does not matter (PointNet, Qi et al., CVPR 2017, with a mean for its maximum).
    Each branch has weights of its own.

    Arguments:
        dim: D.
        geometry_in: columns of the geometry's features.
        branches: {name: `Branch`, or its table}, without curl.
        parameters: P; a time counts among them.
        width, depth: H, and residual layers.
        waves: wavelengths of `SineCosine` for each axis, beside the coordinates themselves.
        pooled: whether that vector goes along.
        distance: whether each point knows what `cloud_distance` says.
        normals: first of D columns of the geometry's features that are its outward normals, as
            vectors (not standardised); None: the distance has no sign.
        norm: LayerNorm in front of each residual layer.

    Raises:
        InputError: sizes below 1, or a branch with a curl.

    >>> net = PointMLP(3, 0, {"mesh": {"outputs": {"p": 1}}}, width=16)
    >>> cloud = Points(torch.rand(1, 20, 3), torch.zeros(1, 20, 0))
    >>> latent = net.encode(cloud, torch.zeros(1, 0))
    >>> net.decode(latent, "mesh", cloud)["p"].shape
    torch.Size([1, 20, 1])
    """

    def __init__(
        self,
        dim: int,
        geometry_in: int,
        branches: Mapping[str, Branch | Mapping[str, Any]],
        parameters: int = 0,
        *,
        width: int = 128,
        depth: int = 4,
        waves: int = 6,
        pooled: bool = True,
        distance: bool = False,
        normals: int | None = None,
        norm: bool = True,
    ):
        super().__init__()
        self.branches = plain_branches(branches, "a point MLP")
        check_sizes({"dim": dim, "width": width, "depth": depth, "waves": waves})
        check_normals(normals, dim, geometry_in)
        self.arguments: dict[str, Any] = {
            "dim": dim, "geometry_in": geometry_in, "parameters": parameters,
            "branches": {name: b.to_dict() for name, b in self.branches.items()},
            "width": width, "depth": depth, "waves": waves, "pooled": pooled,
            "distance": distance, "normals": normals, "norm": norm,
        }  # fmt: skip
        self.waves = SineCosine(dim, waves)
        place = dim + self.waves.width

        def net(inputs: int, blocks: int, outputs: int) -> nn.Sequential:
            middle = [Residual(width, norm) for _ in range(blocks)]
            last = [nn.LayerNorm(width)] if norm else []
            return nn.Sequential(
                nn.Linear(inputs, width), *middle, *last, nn.Linear(width, outputs)
            )

        self.geometry = net(place + geometry_in, max(depth // 2, 1), width) if pooled else None
        known = parameters + (width if pooled else 0)
        if distance:
            known += 1 + (0 if normals is None else dim)
        self.nets = nn.ModuleDict({
            name: net(place + b.inputs + known, depth, sum(b.outputs.values()))
            for name, b in self.branches.items()
        })  # fmt: skip

    def encode(
        self,
        geometry: Points,
        parameters: Float[Tensor, "B P"],
        anchors: Mapping[str, Points] | None = None,
    ) -> Latent:
        """Parameters, and what is kept of the geometry; arguments as for `FieldModel.encode`.

        Raises:
            InputError: columns that do not fit, or no points where they are looked at.
        """
        given, (cloud, x) = self.arguments, geometry
        looked = given["distance"] or given["pooled"]
        check_columns(geometry, given["dim"], given["geometry_in"], "geometry", int(looked))
        check_parameters(parameters, given["parameters"], len(cloud))
        known = parameters
        if self.geometry is not None:
            known = torch.cat([known, self.geometry(self._rows(geometry)).mean(1)], 1)
        if not given["distance"]:
            return Latent(known, cloud[:, :0], cloud[:, :0])
        cloud, x = in_order(geometry)
        return Latent(known, cloud, normals_of(x, given["normals"], given["dim"]))

    def decode(self, latent: Latent, branch: str, points: Points) -> Fields:
        """{field: (B, N, c)} at any points of a branch."""
        check_known(branch, self.branches, "branch")
        check_columns(points, self.arguments["dim"], self.branches[branch].inputs, branch)

        def rows(part: Points) -> Tensor:
            known = latent.known[:, None].expand(-1, part.pos.shape[1], -1)
            parts = [self._rows(part), known]
            if self.arguments["distance"]:
                d, direction = cloud_distance(latent.cloud, latent.normals, part.pos)
                parts += [d[..., None], direction]
            return self.nets[branch](torch.cat(parts, 2))

        return split_fields(self.branches[branch], in_tiles(rows, points))

    def _rows(self, points: Points) -> Tensor:
        return torch.cat([points.pos, self.waves(points.pos), points.x], 2)
