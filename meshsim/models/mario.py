"""MARIO: a latent of the geometry's distance function shifts a field network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshsim.check import check_known
from meshsim.models.field import (
    Branch,
    FieldBatch,
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
from meshsim.nn.fourier import GaussianFourier, unrounded
from meshsim.nn.siren import LatentScale, ShiftedNetwork, fitted


class Shape(NamedTuple):
    """What a geometry is learned from.

    Arguments:
        cloud, normals: (B, G, D), (B, G, D or 0), all points in an order of their own.
        pos, value: (B, S, D) places, the first K of them on the surface, and (B, S) what the
            distance function is there.
        features: (B, K, F) of the points on the surface.
    """

    cloud: Tensor
    normals: Tensor
    pos: Tensor
    value: Tensor
    features: Tensor


class DistanceSamples(nn.Module):
    """Places on, near and around a cloud, and its truncated distance function there.

    K of the cloud's points (all, or every so many-th from left to right), value 0; those moved off
    the surface by up to `reach`, along ±n where there are normals, else anywhere; K places in the
    bounding box widened by half its longest side. Draws are a scrambled Sobol sequence. Values are
    tanh(d / reach): far away only the sign matters (a smooth form of the clamp of Park et al.,
    "DeepSDF", CVPR 2019). The order of the points makes no difference.

    Arguments:
        dim: D.
        columns: F, of the features.
        normals: first column of the normals among them, None if there are none.
        points: K.
        reach: in units of the coordinates.
        seed: of the draws.

    Raises:
        InputError: sizes below 1, normals that do not fit; geometries that do not.
    """

    draws: Tensor

    def __init__(
        self, dim: int, columns: int, normals: int | None, points: int, reach: float, seed: int
    ):
        super().__init__()
        check_sizes({"dim": dim, "points": points, "reach": reach})
        check_normals(normals, dim, columns)
        self.dim, self.columns = dim, columns
        self.normals, self.points, self.reach = normals, points, reach
        sobol = torch.quasirandom.SobolEngine(2 * dim, scramble=True, seed=seed)
        self.register_buffer("draws", sobol.draw(points))

    @torch.no_grad()
    def forward(self, geometry: Points) -> Shape:
        """Geometry (B, G, D), (B, G, F) to what it is learned from."""
        check_columns(geometry, self.dim, self.columns, "geometry", 1)
        cloud, features = in_order(geometry)
        dim, count = self.dim, cloud.shape[1]
        normals = normals_of(features, self.normals, dim)
        k = min(self.points, count)
        pick = torch.arange(k, device=cloud.device) * count // k
        own, draws = cloud[:, pick], self.draws[:k].to(cloud.dtype)
        off = 2 * draws[:, dim:] - 1  # (K, D)
        if self.normals is not None:
            off = off[:, :1] * off[:, :1].abs() * normals[:, pick]  # most of them near
        low, high = cloud.amin(1, keepdim=True), cloud.amax(1, keepdim=True)
        margin = (high - low).amax(2, keepdim=True) / 2 + self.reach
        around = low - margin + self.draws[:, :dim].to(cloud.dtype) * (high - low + 2 * margin)
        places = torch.cat([own + self.reach * off, around], 1)
        value = torch.tanh(cloud_distance(cloud, normals, places)[0] / self.reach)
        value = torch.cat([value.new_zeros(len(value), k), value], 1)
        return Shape(cloud, normals, torch.cat([own, places], 1), value, features[:, pick])


class MultiScale(nn.Module):
    """A shifted ReLU network on Fourier features of several scales, one after the other.

    The scales share the network; a linear layer joins what it gives for each.
    """

    def __init__(self, waves: Sequence[GaussianFourier], net: ShiftedNetwork, outputs: int):
        super().__init__()
        self.waves = nn.ModuleList(waves)
        self.net = net
        self.head = nn.Linear(len(waves) * net.out.out_features, outputs)

    def forward(self, x: Float[Tensor, "B N I"], latent: Float[Tensor, "B Z"]) -> Tensor:
        """(B, N, outputs)."""
        rows = [self.net(torch.cat([x, wave(x)], 2), latent) for wave in self.waves]
        with unrounded(x):
            return self.head(torch.cat(rows, 2))


class Latent(NamedTuple):
    """What MARIO knows of B samples.

    Arguments:
        code: (B, L + P) of the geometry, scaled, and the parameters.
        cloud, normals: (B, G, D), (B, G, D or 0), from which distances are taken.
    """

    code: Tensor
    cloud: Tensor
    normals: Tensor


class MARIO(FieldModel):
    """Multiscale neural field on a geometry's latent (Catalani et al., arXiv:2505.14704).

    The latent is auto-decoded: a few gradient steps from zero make a shifted network give the
    distance function of the geometry (`DistanceSamples`). Latent and parameters shift the field
    network's hidden layers; it sees coordinates, features, the distance d to the cloud, its
    direction where there are normals, and max(0, 1 − d/δ)² in the boundary layer. Training first
    fits the distance functions, through the steps, then the fields with latents as they are.

    As published but for this: distances come from the cloud (`cloud_distance`) and are truncated;
    latents are scaled by running statistics, not those of a finished first stage; widths are 256
    and the rate 0.01 there. Answers change when all coordinates are moved.

    Arguments:
        dim: D.
        geometry_in: columns of the geometry's features.
        branches: {name: `Branch`, or its table}, without curl.
        parameters: P; a time counts among them.
        normals: first of D columns of the geometry's features that are its outward normals, as
            vectors (not standardised); None: the distance has no sign.
        latent: L.
        width, layers: of the field network's hidden layers.
        frequencies, scales: random frequencies, and their deviations in cycles per unit length.
        hyper: widths of the hypernetwork from latent and parameters to shifts.
        boundary: δ, in units of the coordinates.
        shape_width, shape_layers: of the distance network.
        points, reach: of `DistanceSamples`.
        steps, rate: inner gradient steps, and their rate at the start; it is learned.
        stage: share of the training for the distance functions.
        seed: of the frequencies and places.

    Raises:
        InputError: sizes below 1, normals that do not fit, or a branch with a curl.

    >>> net = MARIO(3, 3, {"mesh": {"outputs": {"p": 1}}}, normals=0, width=16)
    >>> cloud = Points(torch.rand(1, 20, 3), torch.rand(1, 20, 3))
    >>> latent = net.encode(cloud, torch.zeros(1, 0))
    >>> net.decode(latent, "mesh", Points(cloud.pos, torch.zeros(1, 20, 0)))["p"].shape
    torch.Size([1, 20, 1])
    """

    def __init__(
        self,
        dim: int,
        geometry_in: int,
        branches: Mapping[str, Branch | Mapping[str, Any]],
        parameters: int = 0,
        *,
        normals: int | None = None,
        latent: int = 8,
        width: int = 128,
        layers: int = 5,
        frequencies: int = 64,
        scales: Sequence[float] = (0.5, 1.0),
        hyper: Sequence[int] = (128, 128, 128),
        boundary: float = 0.04,
        shape_width: int = 128,
        shape_layers: int = 4,
        points: int = 256,
        reach: float = 0.25,
        steps: int = 3,
        rate: float = 1.0,
        stage: float = 0.5,
        seed: int = 0,
    ):
        super().__init__()
        self.branches = plain_branches(branches, "MARIO")
        check_sizes({
            "latent": latent, "width": width, "frequencies": frequencies, "scales": len(scales),
            "boundary": boundary, "steps": steps, "rate": rate,
        })  # fmt: skip
        self.arguments: dict[str, Any] = {
            "dim": dim, "geometry_in": geometry_in, "parameters": parameters,
            "branches": {name: b.to_dict() for name, b in self.branches.items()},
            "normals": normals, "latent": latent, "width": width, "layers": layers,
            "frequencies": frequencies, "scales": list(scales), "hyper": list(hyper),
            "boundary": boundary, "shape_width": shape_width, "shape_layers": shape_layers,
            "points": points, "reach": reach, "steps": steps, "rate": rate, "stage": stage,
            "seed": seed,
        }  # fmt: skip
        self.boundary, self.steps, self.rate, self.stage = boundary, steps, rate, stage
        self.samples = DistanceSamples(dim, geometry_in, normals, points, reach, seed)
        self.waves = GaussianFourier(dim, 32, 0.5, seed)
        self.shape = ShiftedNetwork(
            dim + 64, 1, latent, width=shape_width, layers=shape_layers, activation="relu"
        )
        self.log_gain = nn.Parameter(torch.zeros(()))
        self.scale = LatentScale(latent)
        seen = dim + 2 + (0 if normals is None else dim)

        def net(inputs: int, outputs: int) -> MultiScale:
            waves = [
                GaussianFourier(inputs, frequencies, f, seed + i) for i, f in enumerate(scales)
            ]
            shifted = ShiftedNetwork(
                inputs + 2 * frequencies, width, latent + parameters, width=width, layers=layers,
                activation="relu", hyper=hyper,
            )  # fmt: skip
            return MultiScale(waves, shifted, outputs)

        self.nets = nn.ModuleDict({
            name: net(seen + b.inputs, sum(b.outputs.values())) for name, b in self.branches.items()
        })  # fmt: skip

    # --- the geometry ---

    def shape_error(self, shape: Shape, code: Float[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """(B,) mean squared error of the distance function that latents stand for."""
        rows = torch.cat([shape.pos, self.waves(shape.pos)], 2)
        return (self.shape(rows, code)[..., 0] - shape.value).square().mean(1)

    def shape_code(self, shape: Shape) -> Float[Tensor, "B L"]:
        """Latents (B, L) after the inner steps."""
        start = shape.pos.new_zeros(len(shape.pos), self.arguments["latent"])
        rate = self.rate * self.log_gain.exp()
        return fitted(lambda z: self.shape_error(shape, z), start, rate, self.steps)

    def encode(
        self,
        geometry: Points,
        parameters: Float[Tensor, "B P"],
        anchors: Mapping[str, Points] | None = None,
    ) -> Latent:
        """Latents of the geometry beside the parameters; arguments as for `FieldModel.encode`.

        Raises:
            InputError: columns that do not fit, or no points.
        """
        if torch.is_inference_mode_enabled():  # the steps to a latent take gradients even there
            with torch.inference_mode(False), torch.no_grad():
                usual = Points(*(t.clone() for t in geometry))
                return self.encode(usual, parameters.clone(), anchors)
        shape = self.samples(geometry)
        check_parameters(parameters, self.arguments["parameters"], len(shape.pos))
        return self._latent(shape, self.shape_code(shape), parameters)

    def _latent(self, shape: Shape, code: Tensor, parameters: Tensor) -> Latent:
        known = torch.cat([self.scale.scaled(code), parameters], 1)
        return Latent(known, shape.cloud, shape.normals)

    # --- the fields ---

    def decode(self, latent: Latent, branch: str, points: Points) -> Fields:
        """{field: (B, N, c)} at any points of a branch."""
        check_known(branch, self.branches, "branch")
        check_columns(points, self.arguments["dim"], self.branches[branch].inputs, branch)

        def rows(part: Points) -> Tensor:
            d, direction = cloud_distance(latent.cloud, latent.normals, part.pos)
            layer = (1 - d.abs() / self.boundary).clamp_min(0).square()
            seen = torch.cat([*part, d[..., None], layer[..., None], direction], 2)
            return self.nets[branch](seen, latent.code)

        return split_fields(self.branches[branch], in_tiles(rows, points))

    def training_loss(self, batch: FieldBatch, share: float) -> Tensor:
        """At first the error of the distance functions, then that of the fields."""
        shape = self.samples(batch.geometry)
        if share < self.stage:
            if self.training:
                self.scale.forget()
            return self.shape_error(shape, self.shape_code(shape)).mean()
        with torch.no_grad():
            code = self.shape_code(shape)
            if self.training:
                self.scale.gather(code)
        latent = self._latent(shape, code, batch.parameters)
        out = {name: self.decode(latent, name, points) for name, points in batch.points.items()}
        return batch.loss(out)
