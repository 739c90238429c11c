"""Multi-layer perceptron with an optional LayerNorm at its end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim import native
from meshsim.check import InputError, check_known
from meshsim.ops import mlp_rows

ACTIVATIONS = ("relu", "silu", "gelu")


class MLP(nn.Module):
    """Linear layers with an activation between them, then LayerNorm.

    Arguments:
        inputs, outputs: widths at the ends.
        width: of the hidden layers.
        hidden_layers: how many hidden layers, 0 for one linear layer.
        activation: "relu", "silu" or "gelu".
        norm: LayerNorm on the output, computed in the precision of its weights.

    Raises:
        InputError: an unknown activation or a negative number of layers.

    >>> MLP(3, 2, width=8)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        hidden_layers: int = 2,
        activation: str = "relu",
        norm: bool = True,
    ):
        super().__init__()
        check_known(activation, ACTIVATIONS, "activation")
        if hidden_layers < 0:
            raise InputError(f"`hidden_layers`: expected 0 or more, got {hidden_layers}")
        widths = [inputs, *[width] * hidden_layers, outputs]
        linears = (nn.Linear(a, b) for a, b in pairwise(widths))
        self.layers: Sequence[nn.Linear] = nn.ModuleList(linears)  # type: ignore[assignment]
        self.norm = nn.LayerNorm(outputs) if norm else None
        self.activation = activation

    def forward(self, x: Float[Tensor, "R I"]) -> Float[Tensor, "R O"]:
        """Rows (R, inputs) to rows (R, outputs)."""
        if self._has_native(x):
            eps = 1e-5 if self.norm is None else self.norm.eps
            return mlp_rows(x, self.tensors(), self.norm is not None, self.activation, eps)
        return self.after_first(self.layers[0](x))

    def after_first(self, h: Float[Tensor, "R H"]) -> Float[Tensor, "R O"]:
        """The rest, from what the first linear layer gave.

        A caller may compute that layer in parts. `h` is overwritten where autograd allows it.
        """
        for layer in self.layers[1:]:
            h = layer(self._activate(h))  # (R, H)
        if self.norm is None:
            return h
        # In bfloat16 torch accumulates the gradients of gamma and beta in bfloat16 on the CPU.
        gamma, beta = self.norm.weight, self.norm.bias
        wide = torch.promote_types(gamma.dtype, torch.float32)
        y = F.layer_norm(h.to(wide), gamma.shape, gamma.to(wide), beta.to(wide), self.norm.eps)
        return y.to(gamma.dtype)

    def tensors(self) -> list[Tensor]:
        """Weight and bias of each layer, then those of the LayerNorm."""
        out = [t for layer in self.layers for t in (layer.weight, layer.bias)]
        return out if self.norm is None else [*out, self.norm.weight, self.norm.bias]

    def _has_native(self, x: Tensor) -> bool:
        """Whether a compiled operator covers these rows."""
        first = self.layers[0]
        return (
            not torch.compiler.is_compiling()  # what traces a graph looks through plain operations
            and native.has_kernel("mlp_rows", x.device.type.upper())
            and not torch.is_autocast_enabled(x.device.type)
            and self.activation in ("relu", "silu")
            and len(self.layers) > (self.norm is None)
            and first.out_features % 16 == 0
            and min(first.in_features, self.layers[-1].out_features) > 0
            and (self.norm is None or self.layers[-1].out_features == first.out_features)
            and x.dim() == 2
            and x.dtype == first.weight.dtype
            and x.dtype in (torch.float32, torch.float64)
        )

    def _activate(self, h: Tensor) -> Tensor:
        if self.activation == "relu":
            return F.relu_(h)  # its gradient needs the result only
        return F.silu(h) if self.activation == "silu" else F.gelu(h)


def add_linear(
    h: Float[Tensor, "R O"], x: Float[Tensor, "R I"], weight: Float[Tensor, "O I"]
) -> Float[Tensor, "R O"]:
    """h + x Wᵀ, into `h` where that is possible."""
    if h.dtype == x.dtype == weight.dtype and not torch.is_autocast_enabled(h.device.type):
        return h.addmm_(x, weight.t())
    return h + F.linear(x, weight)
