"""RMSNorm: rows divided by their root mean square."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshsim.ops.tokens import rms_norm


class RMSNorm(nn.Module):
    """y = g x / √(mean x² + eps), Zhang and Sennrich (NeurIPS 2019), eq. 4.

    Computed in float32 at least, and given back in the precision of `x`.

    Arguments:
        width: H.
        eps: added to the mean square.

    >>> RMSNorm(2)(torch.tensor([[3., 4.]])).square().mean().round()
    tensor(1., grad_fn=<RoundBackward0>)
    """

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... H"]) -> Float[Tensor, "... H"]:
        """Rows (…, H) to rows (…, H)."""
        return rms_norm(x, self.weight, self.eps)
