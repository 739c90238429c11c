"""mlp_rows: a whole multi-layer perceptron on rows, in one operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from meshsim.check import InputError
from meshsim.ops.gradients import again, through

_INPUTS = "Tensor x, Tensor[] parameters, bool norm, str activation, float eps"
torch.library.define(
    "meshsim::mlp_rows", f"({_INPUTS}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
torch.library.define(
    "meshsim::mlp_rows_backward",
    f"(Tensor grad, {_INPUTS}, bool x_grad) -> (Tensor, Tensor[])",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def composed(
    x: Tensor, parameters: Sequence[Tensor], norm: bool, activation: str, eps: float
) -> Tensor:
    """The same out of torch's own operations: what `mlp_rows` must equal."""
    if activation not in ("relu", "silu"):
        raise InputError(f"`activation`: expected relu or silu, got {activation}")
    act = F.relu if activation == "relu" else F.silu
    layers = parameters[:-2] if norm else parameters
    h = F.linear(x, layers[0], layers[1])  # (R, H)
    for weight, bias in zip(layers[2::2], layers[3::2], strict=True):
        h = F.linear(act(h), weight, bias)
    return F.layer_norm(h, h.shape[1:], parameters[-2], parameters[-1], eps) if norm else h


@torch.library.impl("meshsim::mlp_rows", "CompositeExplicitAutograd")
def _reference(*arguments: Any) -> Tensor:
    with torch.no_grad():
        return composed(*arguments)


@torch.library.impl("meshsim::mlp_rows_backward", "CompositeExplicitAutograd")
def _reference_backward(
    grad: Tensor, x: Tensor, parameters: list[Tensor], *rest: Any
) -> tuple[Tensor, list[Tensor]]:
    *how, x_grad = rest
    d_x, d_parameters = _through(grad, x, parameters, how, twice=False)
    return d_x if x_grad else d_x[:0].clone(), d_parameters


def _through(
    grad: Tensor, x: Tensor, parameters: Sequence[Tensor], how: Sequence[Any], twice: bool
) -> tuple[Tensor, list[Tensor]]:
    def compute(x: Tensor, *parameters: Tensor) -> tuple[Tensor]:
        return (composed(x, parameters, *how),)

    d_x, *found = through(compute, [x, *parameters], range(1 + len(parameters)), (grad,), twice)
    return d_x, found


@torch.library.register_fake("meshsim::mlp_rows")
def _fake(x: Tensor, parameters: list[Tensor], norm: bool, *rest: Any) -> Tensor:
    return x.new_empty(x.shape[0], len(parameters[-1]))


@torch.library.register_fake("meshsim::mlp_rows_backward")
def _fake_backward(
    grad: Tensor, x: Tensor, parameters: list[Tensor], *rest: Any
) -> tuple[Tensor, list[Tensor]]:
    d_x = x.new_empty(x.shape if rest[-1] else (0, x.shape[1]))
    return d_x, [p.new_empty(p.shape) for p in parameters]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, parameters, *ctx.how = inputs
    ctx.save_for_backward(x, *parameters)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | list[Tensor] | None, ...]:
    x, *parameters = ctx.saved_tensors
    x_grad = ctx.needs_input_grad[0]
    if again():
        d_x, found = _through(grad, x, parameters, ctx.how, twice=True)
    else:
        d_x, found = torch.ops.meshsim.mlp_rows_backward(grad, x, parameters, *ctx.how, x_grad)
    return d_x if x_grad else None, found, None, None, None


torch.library.register_autograd("meshsim::mlp_rows", _backward, setup_context=_setup)


def mlp_rows(
    x: Float[Tensor, "R I"],
    parameters: Sequence[Tensor],
    norm: bool = False,
    activation: str = "relu",
    eps: float = 1e-5,
) -> Float[Tensor, "R O"]:
    """MLP(x) = W_L a(… a(W_1 x + b_1) …) + b_L, with LayerNorm behind it or not.

    The encoders and the decoder of a network, in tiles that stay in cache. Nothing is kept for
    the gradient but `x`: hidden rows are computed anew.

    Arguments:
        x: (R, I), I ≥ 1.
        parameters: weight (out, in) and bias (out,) of each layer, then with `norm` the weight and
            bias (H,) of LayerNorm. All layers give H, a multiple of 16, but the last without
            `norm`, which gives any O ≥ 1; then there are two layers or more.
        norm: LayerNorm at the end.
        activation: "relu" or "silu", between the layers.
        eps: of LayerNorm.

    Returns:
        (R, O), with `norm` (R, H).

    >>> mlp_rows(torch.ones(5, 1), [torch.ones(16, 1), torch.zeros(16),
    ...                             torch.ones(2, 16), torch.zeros(2)])[0]
    tensor([16., 16.])
    """
    return torch.ops.meshsim.mlp_rows(x, list(parameters), norm, activation, eps)
