"""Point MLP: every point by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim.check import check_known
from meshsim.models.field import (
    Branch,
    FieldModel,
    Fields,
    Points,
    check_columns,
    check_normals,
    check_parameters,
    check_sizes,
    cloud_distance,
    in_order,
    in_tiles,
    normals_of,
    plain_branches,
    split_fields,
)
from meshsim.nn.fourier import SineCosine, unrounded


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


class Stack(nn.Sequential):
    """Layers, of which `torch.autocast` rounds neither the first nor the last."""

    def forward(self, x: Float[Tensor, "B N I"]) -> Float[Tensor, "B N O"]:
        """Rows (B, N, inputs) to rows (B, N, outputs)."""
        first, *middle, last = self
        with unrounded(x):
            x = first(x)
        for layer in middle:
            x = layer(x)
        with unrounded(x):
            return last(x)


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
    Each branch has weights of its own. Under `torch.autocast` the products of the residual layers
    are rounded.

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

        def net(inputs: int, blocks: int, outputs: int) -> Stack:
            middle = [Residual(width, norm) for _ in range(blocks)]
            last = [nn.LayerNorm(width)] if norm else []
            return Stack(nn.Linear(inputs, width), *middle, *last, nn.Linear(width, outputs))

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
