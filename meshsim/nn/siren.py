"""Sine layers, networks that a latent shifts, latents found by gradient steps, their scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim.check import InputError, check_known
from meshsim.nn.fourier import unrounded


class SineLayer(nn.Module):
    """y = sin(ω (W x + b + s)), s being a shift from outside.

    Sitzmann et al., "Implicit neural representations with periodic activation functions", NeurIPS
    2020: W from U(−1/n, 1/n) in the first layer and U(−√(6/n)/ω, √(6/n)/ω) in the others, n being
    `inputs`. What goes into the sines of wide layers is then normal, of a variance that stays the
    same however many there are (it tends to v = 1 − e^−2v ≈ 0.8). ω would multiply what is rounded,
    so `torch.autocast` does nothing here.

    Arguments:
        inputs, outputs: widths.
        omega: ω.
        first: whether coordinates come in, not sines.

    >>> SineLayer(2, 8, first=True)(torch.zeros(5, 2)).shape
    torch.Size([5, 8])
    """

    def __init__(self, inputs: int, outputs: int, omega: float = 30.0, first: bool = False):
        super().__init__()
        self.omega = omega
        self.linear = nn.Linear(inputs, outputs)
        sine_weights(self.linear, omega, first)

    def forward(self, x: Float[Tensor, "*B I"], shift: Tensor | float = 0.0) -> Tensor:
        """(…, inputs) to (…, outputs)."""
        with unrounded(x):
            return torch.sin(self.omega * (self.linear(x) + shift))


def sine_weights(linear: nn.Linear, omega: float, first: bool = False) -> None:
    """Draw weights and biases of a layer among sines, as `SineLayer` has it."""
    n = max(linear.in_features, 1)
    bound = 1 / n if first else math.sqrt(6 / n) / omega
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.uniform_(linear.bias, -bound, bound)


class ReluLayer(nn.Module):
    """y = max(0, W x + b + s)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Float[Tensor, "*B I"], shift: Tensor | float = 0.0) -> Tensor:
        """(…, inputs) to (…, outputs)."""
        return F.relu(self.linear(x) + shift)


class ShiftedNetwork(nn.Module):
    """A network on points whose hidden layers a latent shifts, each number by its own amount.

    h_l = σ(W_l h_{l−1} + b_l + s_l(z)), y = W h_L + b; (s_1 … s_L) = hypernetwork(z): Dupont et
    al., "From data to functa", ICML 2022. The hypernetwork has no biases: a zero latent leaves the
    base network as it is, whose own biases say what all latents have in common. Under
    `torch.autocast` only products between hidden ReLU layers are rounded.

    Arguments:
        inputs, outputs: columns of points and of answers.
        latent: columns of z.
        width, layers: of the hidden layers, and how many.
        activation: σ, "sine" or "relu".
        omega: ω of the sines.
        hyper: widths of the hypernetwork's hidden layers (SiLU); none is a linear map.

    Raises:
        InputError: no hidden layer, or an unknown activation.

    >>> net = ShiftedNetwork(2, 1, 4, width=8)
    >>> net(torch.zeros(3, 5, 2), torch.zeros(3, 4)).shape
    torch.Size([3, 5, 1])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        latent: int,
        *,
        width: int = 128,
        layers: int = 4,
        activation: str = "sine",
        omega: float = 30.0,
        hyper: Sequence[int] = (),
    ):
        super().__init__()
        check_known(activation, ("sine", "relu"), "activation")
        if layers < 1:
            raise InputError(f"`layers`: expected 1 or more, got {layers}")
        sizes = list(pairwise([inputs, *[width] * layers]))
        if activation == "sine":
            made: list[nn.Module] = [
                SineLayer(a, b, omega, first=i == 0) for i, (a, b) in enumerate(sizes)
            ]
        else:
            made = [ReluLayer(a, b) for a, b in sizes]
        self.layers = nn.ModuleList(made)
        self.out = nn.Linear(width, outputs)
        if activation == "sine":
            sine_weights(self.out, omega)
        widths = [latent, *hyper, layers * width]
        self.hyper = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))

    def shifts(self, latent: Float[Tensor, "B Z"]) -> tuple[Tensor, ...]:
        """(B, 1, width) for each hidden layer."""
        h = latent
        with unrounded(h):
            for i, linear in enumerate(self.hyper):
                h = linear(h if i == 0 else F.silu(h))
        return h[:, None].chunk(len(self.layers), 2)

    def forward(self, x: Float[Tensor, "B N I"], latent: Float[Tensor, "B Z"]) -> Tensor:
        """(B, N, outputs) at points (B, N, inputs)."""
        first, *rest = self.shifts(latent)
        with unrounded(x):
            x = self.layers[0](x, first)
        for layer, shift in zip(self.layers[1:], rest, strict=True):
            x = layer(x, shift)
        with unrounded(x):
            return self.out(x)


def fitted(
    error: Callable[[Tensor], Tensor],
    start: Float[Tensor, "B *Z"],
    rate: Tensor | float,
    steps: int = 3,
) -> Float[Tensor, "B *Z"]:
    """Latents after a few steps of gradient descent, and so a function of the network's weights.

    z ← z − rate ∂error/∂z, with the weights left as they are (CAVIA: Zintgraf et al., ICML 2019).
    Where gradients are wanted they flow through the steps, second derivatives and all; under
    `torch.no_grad` the steps are taken as well, and the latents come back detached. Nothing is
    rounded by `torch.autocast`.

    Arguments:
        error: of latents (B, …), a number (B,) for each sample.
        start: (B, …) latents at the start.
        rate: of the steps, a number or what multiplies a latent.
        steps: how many.

    >>> fitted(lambda z: (z - 1).square().sum(1), torch.zeros(2, 1), 0.5, steps=1)
    tensor([[1.],
            [1.]], grad_fn=<SubBackward0>)
    """
    second = torch.is_grad_enabled()
    with torch.enable_grad(), unrounded(start):
        z = start if second and start.requires_grad else start.detach().requires_grad_()
        for _ in range(steps):
            (slope,) = torch.autograd.grad(error(z).sum(), z, create_graph=second)
            z = z - rate * slope
            if not second:
                z = z.detach().requires_grad_()
    return z if second else z.detach()


class LatentScale(nn.Module):
    """Mean and deviation of latents, gathered while training runs: (z − mean) / deviation.

    Batches are merged as in Chan, Golub and LeVeque 1983, eq. 2.1. A deviation far below that of
    the other columns is raised to a hundredth of it; before there are two latents nothing is done.

    Arguments:
        columns: of a latent.

    >>> scale = LatentScale(1)
    >>> scale.gather(torch.tensor([[1.0], [3.0]]))
    >>> scale.scaled(torch.tensor([[5.0]]))
    tensor([[3.]])
    """

    count: Tensor
    mean: Tensor
    m2: Tensor

    def __init__(self, columns: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("m2", torch.zeros(columns))

    def forget(self) -> None:
        """Start anew: the latents changed their meaning."""
        for buffer in (self.count, self.mean, self.m2):
            buffer.zero_()

    def gather(self, latents: Float[Tensor, "*B Z"]) -> None:
        """Take in latents (…, columns)."""
        rows = latents.detach().flatten(0, -2).to(self.mean.dtype)
        mean, total = rows.mean(0), self.count + len(rows)
        delta = mean - self.mean
        self.m2 += (rows - mean).square().sum(0) + delta.square() * (self.count * len(rows) / total)
        self.mean += delta * (len(rows) / total)
        self.count.copy_(total)

    def deviation(self) -> Float[Tensor, " Z"]:
        """(columns,)."""
        variance = self.m2 / self.count.clamp_min(1)
        least = 1e-2 * variance.mean().sqrt() + 1e-6
        return torch.where(self.count < 2, torch.ones_like(variance), variance.sqrt().clamp(least))

    def scaled(self, latents: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B Z"]:
        """(z − mean) / deviation."""
        return (latents - self.mean) / self.deviation()

    def restored(self, scaled: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B Z"]:
        """What `scaled` came from."""
        return scaled * self.deviation() + self.mean
