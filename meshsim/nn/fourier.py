"""Fourier features of coordinates."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshsim.check import InputError


def unrounded(like: Tensor) -> torch.autocast:
    """A context in which products keep the precision of what goes in, whatever surrounds it.

    Where coordinates, parameters or answers go through a layer: bfloat16 has three digits.

    Arguments:
        like: a tensor of the device.

    >>> x = torch.ones(1, 1)
    >>> with torch.autocast("cpu", torch.bfloat16), unrounded(x):
    ...     (x @ x).dtype
    torch.float32
    """
    return torch.autocast(like.device.type, enabled=False)


class SineCosine(nn.Module):
    """Sines and cosines of each coordinate at wavelengths in geometric progression.

    (sin, cos)(2π x_a / λ_t), λ_t = longest (shortest / longest)^(t / (count − 1)): Vaswani et al.,
    NeurIPS 2017, §3.5, an axis at a time.

    Arguments:
        dim: D.
        count: wavelengths for each axis.
        longest, shortest: wavelengths, in units of the coordinates.

    Raises:
        InputError: a count below 1, wavelengths that do not fall.

    >>> SineCosine(2, 3)(torch.zeros(5, 2)).shape
    torch.Size([5, 12])
    """

    turns: Tensor

    def __init__(self, dim: int, count: int, longest: float = 4.0, shortest: float = 0.1):
        super().__init__()
        if count < 1:
            raise InputError(f"`count`: expected 1 or more, got {count}")
        if not 0 < shortest <= longest < math.inf:
            raise InputError(f"`shortest`: expected 0 to {longest:g}, got {shortest:g}")
        self.width = 2 * dim * count
        lengths = torch.logspace(math.log10(longest), math.log10(shortest), count)
        self.register_buffer("turns", 2 * math.pi / lengths, persistent=False)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        """Coordinates (…, D) to (…, 2 D count)."""
        angle = (x[..., None] * self.turns).flatten(-2)  # (…, D count)
        return torch.cat([angle.sin(), angle.cos()], -1)


class GaussianFourier(nn.Module):
    """Random Fourier features: (sin, cos)(2π B x), entries of B drawn from N(0, scale²) once.

    Tancik et al., "Fourier features let networks learn high frequency functions in low dimensional
    domains", NeurIPS 2020, §5.

    Arguments:
        dim: D.
        count: rows of B.
        scale: standard deviation of the frequencies, in cycles per unit of length.
        seed: of the draw; equal seeds give equal features.

    >>> a, b = GaussianFourier(2, 4, seed=1), GaussianFourier(2, 4, seed=1)
    >>> torch.equal(a(torch.ones(1, 2)), b(torch.ones(1, 2)))
    True
    """

    turns: Tensor

    def __init__(self, dim: int, count: int, scale: float = 1.0, seed: int = 0):
        super().__init__()
        if count < 1:
            raise InputError(f"`count`: expected 1 or more, got {count}")
        self.width = 2 * count
        drawn = torch.randn(dim, count, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("turns", 2 * math.pi * scale * drawn)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        """Coordinates (…, D) to (…, 2 count)."""
        with unrounded(x):
            angle = x @ self.turns  # (…, count)
        return torch.cat([angle.sin(), angle.cos()], -1)
