"""enf2enf: a latent point cloud on the geometry, decoded by relative positions only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
from meshsim.nn.fourier import GaussianFourier, unrounded
from meshsim.nn.siren import LatentScale, fitted
from meshsim.ops.sampling import farthest_points


def perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Linear, GELU, linear."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, outputs))


class RelativeAttention(nn.Module):
    """Places attend to tokens by where these lie from them.

    With r = x_i − p_j: logits q(r)·k(a_j)/√depth − |r|²/(2σ²), values v(a_j) ⊙ (1 + γ(r)) + β(r);
    q, γ and β are MLPs of random Fourier features ("Grounding continuous representations in
    geometry: equivariant neural fields", arXiv:2406.05753). The heads share the width.

    Arguments:
        dim: D.
        width, heads: H, and the parts it has.
        window: σ, in units of the coordinates.
        bands: deviations of the frequencies for queries and for values.
        seed: of the frequencies.
    """

    def __init__(
        self, dim: int, width: int, heads: int, window: float, bands: Sequence[float], seed: int
    ):
        super().__init__()
        self.heads, self.window = heads, window
        half = max(width // 2, 1)
        waves = [GaussianFourier(dim, half, f, seed + i) for i, f in enumerate(bands)]
        self.waves = nn.ModuleList(waves)
        self.query = perceptron(2 * half, width, width)
        self.film = perceptron(2 * half, width, 2 * width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B N D"], p: Float[Tensor, "B Z D"], a: Float[Tensor, "B Z H"]
    ) -> Float[Tensor, "B N H"]:
        """(B, N, H) at places x, of tokens a at p."""
        off = x[:, :, None] - p[:, None]  # (B, N, Z, D)
        k, v = self.key_value(a)[:, None].chunk(2, 3)  # (B, 1, Z, H)
        q = self.query(self.waves[0](off))  # (B, N, Z, H)
        gain, shift = self.film(self.waves[1](off)).chunk(2, 3)
        v = (v * (1 + gain) + shift).unflatten(3, (self.heads, -1))  # (B, N, Z, heads, depth)
        logits = (q * k).unflatten(3, (self.heads, -1)).sum(4) / v.shape[4] ** 0.5
        logits = logits - off.square().sum(3, keepdim=True) / (2 * self.window**2)
        return self.out((logits.softmax(2)[..., None] * v).sum(2).flatten(2))


class NeuralField(nn.Module):
    """Tokens that see each other, and what is decoded from them anywhere.

    Moving places and tokens together changes nothing. Under `torch.autocast` the products of
    attention and of the MLPs between are rounded.

    Arguments:
        width: H.
        context, features, outputs: columns of tokens, of the places' features, and of answers.
        attention: among the tokens, and at last that of the places.
    """

    def __init__(
        self, width: int, context: int, features: int, outputs: int, attention: nn.ModuleList
    ):
        super().__init__()
        self.stem = perceptron(context, width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in attention)
        self.attention = attention
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), perceptron(width, width, width))
            for _ in range(len(attention) - 1)
        )
        self.head = nn.Sequential(
            nn.Linear(width + features, width), nn.GELU(), perceptron(width, width, outputs)
        )

    def tokens(
        self, p: Float[Tensor, "B Z D"], context: Float[Tensor, "B Z C"]
    ) -> Float[Tensor, "B Z H"]:
        """What places attend to."""
        with unrounded(context):
            a = self.stem(context)
        for norm, attention, mlp in zip(self.norms, self.attention, self.mlp, strict=False):
            a = a + attention(p, p, norm(a))
            a = a + mlp(a)
        return self.norms[-1](a)

    def forward(self, points: Points, p: Tensor, tokens: Tensor) -> Float[Tensor, "B N C"]:
        """(B, N, outputs) at points."""
        y = nn.functional.gelu(self.attention[-1](points.pos, p, tokens))
        with unrounded(y):
            return self.head(torch.cat([y, points.x], 2))


class Latent(NamedTuple):
    """The latent point cloud.

    Arguments:
        pos: (B, Z, D) on the geometry.
        context: (B, Z, L + P) what is known there, scaled, and the parameters.
    """

    pos: Tensor
    context: Tensor


class ENF2ENF(FieldModel):
    """Equivariant neural fields (Catalani et al., arXiv:2504.18591).

    Z of the geometry's points, each the farthest from those before it, carry L numbers that a few
    gradient steps from 1 find such that a neural field decoded from them gives the geometry's
    distance function (`DistanceSamples`). With the parameters beside them they are the tokens of
    the fields of all branches. Training first fits the distance functions, through the steps, then
    the fields with the numbers as they are. Only differences of positions enter: moving geometry
    and points together leaves the answer as it is (up to rounding, which decides between points
    equally far away); turning them does not.

    As published but for the tokens' places, a fixed grid there; for heads that share the width;
    for statistics that scale the numbers, gathered while the second stage runs; and for the rate.

    Arguments:
        dim: D.
        geometry_in: columns of the geometry's features.
        branches: {name: `Branch`, or its table}, without curl.
        parameters: P; a time counts among them.
        normals: first of D columns of the geometry's features that are its outward normals, as
            vectors (not standardised); None: the distance has no sign.
        tokens, latent: Z, at most as many as geometry points are given, and L.
        width, heads, blocks: of the fields' networks.
        shape_width: of the distance function's, which has no blocks.
        window: σ, in units of the coordinates.
        frequencies: deviations of the random frequencies for queries and values, cycles per unit.
        points, reach: of `DistanceSamples`.
        steps, rate: inner gradient steps, and the rate of each number at the start; it is learned.
        stage: share of the training for the distance functions.
        seed: of the frequencies and places.

    Raises:
        InputError: sizes that do not fit, or a branch with a curl.

    >>> net = ENF2ENF(3, 0, {"mesh": {"outputs": {"p": 1}}}, width=16)
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
        tokens: int = 9,
        latent: int = 8,
        width: int = 128,
        heads: int = 2,
        blocks: int = 2,
        shape_width: int = 64,
        window: float = 0.2,
        frequencies: Sequence[float] = (1.0, 1.0),
        points: int = 128,
        reach: float = 0.25,
        steps: int = 3,
        rate: float = 30.0,
        stage: float = 0.5,
        seed: int = 0,
    ):
        super().__init__()
        self.branches = plain_branches(branches, "enf2enf")
        check_sizes({
            "tokens": tokens, "latent": latent, "width": width, "heads": heads,
            "shape_width": shape_width, "window": window, "steps": steps, "rate": rate,
        })  # fmt: skip
        if width % heads or shape_width % heads:
            raise InputError(
                f"`heads`: expected a divisor of the widths {width}, {shape_width}, got {heads}"
            )
        if len(frequencies) != 2:
            raise InputError(f"`frequencies`: expected 2, got {len(frequencies)}")
        self.arguments: dict[str, Any] = {
            "dim": dim, "geometry_in": geometry_in, "parameters": parameters,
            "branches": {name: b.to_dict() for name, b in self.branches.items()},
            "normals": normals, "tokens": tokens, "latent": latent, "width": width,
            "heads": heads, "blocks": blocks, "shape_width": shape_width, "window": window,
            "frequencies": list(frequencies), "points": points, "reach": reach, "steps": steps,
            "rate": rate, "stage": stage, "seed": seed,
        }  # fmt: skip
        self.steps, self.rate, self.stage = steps, rate, stage
        self.samples = DistanceSamples(dim, geometry_in, normals, points, reach, seed)

        def net(width: int, blocks: int, context: int, features: int, out: int) -> NeuralField:
            attention = nn.ModuleList(
                RelativeAttention(dim, width, heads, window, frequencies, seed + 2 * i)
                for i in range(blocks + 1)
            )
            return NeuralField(width, context, features, out, attention)

        self.shape = net(shape_width, 0, latent, 0, 1)
        self.log_gain = nn.Parameter(torch.zeros(latent))
        self.scale = LatentScale(latent)
        self.nets = nn.ModuleDict({
            name: net(width, blocks, latent + parameters, b.inputs, sum(b.outputs.values()))
            for name, b in self.branches.items()
        })  # fmt: skip

    # --- the geometry ---

    def shape_error(self, shape: Shape, p: Tensor, context: Tensor) -> Float[Tensor, " B"]:
        """(B,) mean squared error of the distance function that tokens stand for."""
        places = Points(shape.pos, shape.pos[..., :0])
        y = self.shape(places, p, self.shape.tokens(p, context))
        return (y[..., 0] - shape.value).square().mean(1)

    def shape_context(self, shape: Shape, p: Float[Tensor, "B Z D"]) -> Float[Tensor, "B Z L"]:
        """Contexts (B, Z, L) after the inner steps."""
        start = p.new_ones(*p.shape[:2], self.arguments["latent"])
        rate = self.rate * self.log_gain.exp()
        return fitted(lambda c: self.shape_error(shape, p, c), start, rate, self.steps)

    def places(self, shape: Shape) -> Float[Tensor, "B Z D"]:
        """Where the tokens are: farthest points, the first being the leftmost."""
        size, count, dim = shape.cloud.shape
        n = min(self.arguments["tokens"], count)
        every = torch.arange(size + 1, device=shape.cloud.device) * count
        flat = shape.cloud.reshape(-1, dim)
        return flat[farthest_points(flat, n, 0, every)].view(size, n, dim)

    def encode(
        self,
        geometry: Points,
        parameters: Float[Tensor, "B P"],
        anchors: Mapping[str, Points] | None = None,
    ) -> Latent:
        """The latent point cloud; arguments as for `FieldModel.encode`.

        Raises:
            InputError: columns that do not fit, or no points.
        """
        shape = self.samples(geometry)
        p = self.places(shape)
        return self._latent(p, self.shape_context(shape, p), parameters)

    def _latent(self, p: Tensor, context: Tensor, parameters: Tensor) -> Latent:
        check_parameters(parameters, self.arguments["parameters"], len(p))
        known = parameters[:, None].expand(-1, p.shape[1], -1)
        return Latent(p, torch.cat([self.scale.scaled(context), known], 2))

    # --- the fields ---

    def decode(self, latent: Latent, branch: str, points: Points) -> Fields:
        """{field: (B, N, c)} at any points of a branch."""
        check_known(branch, self.branches, "branch")
        check_columns(points, self.arguments["dim"], self.branches[branch].inputs, branch)
        net = self.nets[branch]
        assert isinstance(net, NeuralField)
        tokens = net.tokens(latent.pos, latent.context)
        y = in_tiles(lambda part: net(part, latent.pos, tokens), points)
        return split_fields(self.branches[branch], y)

    def training_loss(self, batch: FieldBatch, share: float) -> Tensor:
        """At first the error of the distance functions, then that of the fields."""
        shape = self.samples(batch.geometry)
        p = self.places(shape)
        if share < self.stage:
            if self.training:
                self.scale.forget()
            return self.shape_error(shape, p, self.shape_context(shape, p)).mean()
        with torch.no_grad():
            context = self.shape_context(shape, p)
            if self.training:
                self.scale.gather(context)
        latent = self._latent(p, context, batch.parameters)
        out = {name: self.decode(latent, name, points) for name, points in batch.points.items()}
        return batch.loss(out)
