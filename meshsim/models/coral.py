"""CORAL: functions become latents of shifted sine networks, and latents are mapped to latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshsim.check import InputError, check_known
from meshsim.models.field import (
    Branch,
    FieldBatch,
    FieldModel,
    Fields,
    Points,
    check_columns,
    check_parameters,
    check_sizes,
    in_tiles,
    plain_branches,
    split_fields,
)
from meshsim.models.mario import DistanceSamples, Shape
from meshsim.nn.fourier import unrounded
from meshsim.nn.mlp import MLP
from meshsim.nn.siren import LatentScale, ShiftedNetwork, fitted


class CORAL(FieldModel):
    """Coordinate-based operator learning (Serrano et al., NeurIPS 2023, arXiv:2306.07266).

    A geometry, as the function that gives its distance everywhere and its features on it
    (`DistanceSamples`), and the fields of each branch have a network each, whose hidden layers a
    latent shifts; a function's latent is what a few gradient steps from zero find. Training first
    makes these networks reproduce the functions, through the steps; then it freezes them and fits
    an MLP from the geometry's latent and the parameters to those of the fields, scaled to zero
    mean and unit deviation. An answer comes from the geometry's latent by the MLP; the fields
    themselves are looked at in training only.

    As published but for the geometry, which is not a deformed reference grid, and for the
    statistics, gathered while the second stage runs. Features of the points are coordinates more.
    `torch.autocast` rounds nothing: sines and steps along gradients do not bear it.
    Answers change when all coordinates are moved.

    Arguments:
        dim: D.
        geometry_in: columns of the geometry's features.
        branches: {name: `Branch`, or its table}, without curl.
        parameters: P; a time counts among them.
        normals: first of D columns of the geometry's features that are its outward normals, as
            vectors (not standardised); None: the distance has no sign.
        latent: L, of each function.
        width, layers, omega: of the sine networks.
        map_width, map_layers: of the MLP's hidden layers.
        points, reach, seed: of `DistanceSamples`.
        steps, rate: inner gradient steps, and their rate at the start; each network learns its own.
        stage: share of the training for the networks.

    Raises:
        InputError: sizes below 1, normals that do not fit, or a branch with a curl.

    >>> net = CORAL(3, 0, {"mesh": {"outputs": {"p": 1}}}, width=16)
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
        normals: int | None = None,
        latent: int = 64,
        width: int = 128,
        layers: int = 4,
        omega: float = 10.0,
        map_width: int = 256,
        map_layers: int = 3,
        points: int = 256,
        reach: float = 0.25,
        steps: int = 3,
        rate: float = 0.01,
        stage: float = 0.5,
        seed: int = 0,
    ):
        super().__init__()
        self.branches = plain_branches(branches, "CORAL")
        check_sizes({
            "latent": latent, "width": width, "omega": omega, "map_width": map_width,
            "steps": steps, "rate": rate,
        })  # fmt: skip
        self.arguments: dict[str, Any] = {
            "dim": dim, "geometry_in": geometry_in, "parameters": parameters,
            "branches": {name: b.to_dict() for name, b in self.branches.items()},
            "normals": normals, "latent": latent, "width": width, "layers": layers,
            "omega": omega, "map_width": map_width, "map_layers": map_layers, "points": points,
            "reach": reach, "steps": steps, "rate": rate, "stage": stage, "seed": seed,
        }  # fmt: skip
        self.steps, self.rate, self.stage, self.columns = steps, rate, stage, latent
        self.samples = DistanceSamples(dim, geometry_in, normals, points, reach, seed)

        def network(inputs: int, outputs: int) -> ShiftedNetwork:
            return ShiftedNetwork(inputs, outputs, latent, width=width, layers=layers, omega=omega)

        self.shape = network(dim, 1 + geometry_in)
        self.nets = nn.ModuleDict({
            name: network(dim + b.inputs, sum(b.outputs.values()))
            for name, b in self.branches.items()
        })  # fmt: skip
        self.log_gain = nn.Parameter(torch.zeros(1 + len(branches)))
        self.map = MLP(
            latent + parameters, latent * len(branches), width=map_width,
            hidden_layers=map_layers, activation="silu", norm=False,
        )  # fmt: skip
        self.scale = LatentScale(latent)
        scales = nn.ModuleDict({name: LatentScale(latent) for name in self.branches})
        self.scales: Mapping[str, LatentScale] = scales  # type: ignore[assignment]

    # --- functions and their latents ---

    def shape_error(self, shape: Shape, latent: Float[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """(B,) mean squared error of the distance function, and of the features on the surface."""
        y = self.shape(shape.pos, latent)
        error = (y[..., 0] - shape.value).square().mean(1)
        if not shape.features.shape[2]:
            return error
        on = y[:, : shape.features.shape[1], 1:]
        return error + (on - shape.features).square().mean((1, 2))

    def shape_latent(self, shape: Shape) -> Float[Tensor, "B L"]:
        """Latents (B, L) of the geometry after the inner steps."""
        start = shape.pos.new_zeros(len(shape.pos), self.columns)
        rate = self.rate * self.log_gain[0].exp()
        return fitted(lambda z: self.shape_error(shape, z), start, rate, self.steps)

    def field_error(
        self, branch: str, points: Points, truth: Fields, latent: Float[Tensor, "B L"]
    ) -> Float[Tensor, " B"]:
        """(B,) sum over the known fields of a branch of the mean squared error."""
        y = self._fields(branch, points, latent)
        for name in truth:
            check_known(name, y, f"field of branch {branch!r}:")
        return torch.stack(
            [(y[name] - t).square().flatten(1).mean(1) for name, t in truth.items()]
        ).sum(0)

    def field_latent(self, branch: str, points: Points, truth: Fields) -> Float[Tensor, "B L"]:
        """Latents (B, L) of known fields after the inner steps."""
        start = points.pos.new_zeros(len(points.pos), self.columns)
        rate = self.rate * self.log_gain[1 + list(self.branches).index(branch)].exp()
        return fitted(lambda z: self.field_error(branch, points, truth, z), start, rate, self.steps)

    def _fields(self, branch: str, points: Points, latent: Tensor) -> Fields:
        y = self.nets[branch](torch.cat(points, 2), latent)
        return split_fields(self.branches[branch], y)

    # --- from one to the other ---

    def encode(
        self,
        geometry: Points,
        parameters: Float[Tensor, "B P"],
        anchors: Mapping[str, Points] | None = None,
    ) -> dict[str, Tensor]:
        """{branch: (B, L)} latents of the fields; arguments as for `FieldModel.encode`.

        Raises:
            InputError: columns that do not fit, or no points.
        """
        latent = self.shape_latent(self.samples(geometry))
        mapped = self._mapped(latent, parameters)
        return {name: self.scales[name].restored(z) for name, z in mapped.items()}

    def decode(self, latent: Mapping[str, Tensor], branch: str, points: Points) -> Fields:
        """{field: (B, N, c)} at any points of a branch."""
        self._check(branch, points)
        given, net = latent[branch], self.nets[branch]
        y = in_tiles(lambda part: net(torch.cat(part, 2), given), points)
        return split_fields(self.branches[branch], y)

    def _check(self, branch: str, points: Points) -> None:
        check_known(branch, self.branches, "branch")
        check_columns(points, self.arguments["dim"], self.branches[branch].inputs, branch)

    def _mapped(self, latent: Tensor, parameters: Tensor) -> dict[str, Tensor]:
        """{branch: (B, L)} scaled latents of the fields."""
        check_parameters(parameters, self.arguments["parameters"], len(latent))
        with unrounded(latent):
            mapped = self.map(torch.cat([self.scale.scaled(latent), parameters], 1))
        return dict(zip(self.branches, mapped.split(self.columns, 1), strict=True))

    def training_loss(self, batch: FieldBatch, share: float) -> Tensor:
        """At first the error of functions given back, then that of the scaled latents.

        Raises:
            InputError: no branch whose fields are known.
        """
        shape = self.samples(batch.geometry)
        held = [name for name, truth in batch.targets.items() if truth]
        if not held:
            raise InputError("no targets: nothing to learn")
        for name in held:
            self._check(name, batch.points[name])
        if share < self.stage:
            for scale in [self.scale, *self.scales.values()] if self.training else []:
                scale.forget()
            out = {
                name: self._fields(name, batch.points[name], self._target(batch, name))
                for name in held
            }
            return self.shape_error(shape, self.shape_latent(shape)).mean() + batch.loss(out)
        with torch.no_grad():
            latent = self.shape_latent(shape)
            targets = {name: self._target(batch, name) for name in held}
            if self.training:
                self.scale.gather(latent)
                for name, z in targets.items():
                    self.scales[name].gather(z)
        mapped = self._mapped(latent, batch.parameters)
        errors = [
            (mapped[k] - self.scales[k].scaled(z)).square().mean() for k, z in targets.items()
        ]
        return torch.stack(errors).sum()

    def _target(self, batch: FieldBatch, branch: str) -> Tensor:
        return self.field_latent(branch, batch.points[branch], batch.targets[branch])
