"""What torch_scatter composes of its reductions: deviations, softmax and logarithms of sums."""

from __future__ import annotations

from math import log

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from meshsim.check import InputError
from meshsim.ops.scatter import _count, _run, _size, broadcast, scatter_mean, scatter_sum


def scatter_std(
    src: Float[Tensor, "..."],
    index: Int[Tensor, "..."],
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    unbiased: bool = True,
) -> Float[Tensor, "..."]:
    """Standard deviation of the values that share an index; see `scatter_sum`.

    √(Σ (src_j − mean)² / (count − 1 + 10⁻⁶)), with count in place of count − 1 if not `unbiased`.

    >>> scatter_std(torch.tensor([1., 2., 4.]), torch.tensor([1, 0, 1])).round(decimals=3)
    tensor([0.0000, 2.1210])
    """
    n = _size(index, dim, out, dim_size)
    wide = broadcast(index, src, dim)
    mean = scatter_mean(src, index, dim, dim_size=n)
    square = scatter_sum((src - mean.gather(dim, wide)) ** 2, index, dim, out, n)
    count = _count(src, index, dim, n)
    if unbiased:
        count = (count - 1).clamp_(min=1)
    return square.div(count.to(src.dtype) + 1e-6).sqrt()


def _check_float(src: Tensor, name: str) -> None:
    if not src.is_floating_point():
        raise InputError(f"`src`: expected floating point for {name}, got {src.dtype}")


def scatter_softmax(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    dim: int = -1,
    dim_size: int | None = None,
) -> Float[Tensor, "..."]:
    """exp(src_j) over the sum of it for all that share j's index; see `scatter_sum`.

    >>> scatter_softmax(torch.tensor([7., 3., 7.]), torch.tensor([1, 0, 1]))
    tensor([0.5000, 1.0000, 0.5000])
    """
    _check_float(src, "scatter_softmax")
    return _run("softmax", src, index, dim, _size(index, dim, None, dim_size))[0]


def _log_sum(src: Tensor, index: Tensor, dim: int, n: int, eps: float) -> Tensor:
    # A sum of exponentials of differences to the largest is at least 1: small `eps` do nothing.
    y, _ = _run("logsumexp", src, index, dim, n)
    if eps > 1e-12:
        top, _ = _run("max", src, index, dim, n)
        y = torch.where(y.isinf(), y, torch.logaddexp(y, top + log(eps)))
    return y


def scatter_log_softmax(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    dim: int = -1,
    eps: float = 1e-12,
    dim_size: int | None = None,
) -> Float[Tensor, "..."]:
    """Logarithm of `scatter_softmax`; −∞, not NaN, where all that share an index are −∞.

    >>> scatter_log_softmax(torch.tensor([7., 3., 7.]), torch.tensor([1, 0, 1]))
    tensor([-0.6931,  0.0000, -0.6931])
    """
    _check_float(src, "scatter_log_softmax")
    y = _log_sum(src, index, dim, _size(index, dim, None, dim_size), eps)
    y = y.masked_fill(y == -torch.inf, 0.0)  # else −∞ − (−∞)
    return src - y.gather(dim, broadcast(index, src, dim))


def scatter_logsumexp(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    eps: float = 1e-12,
) -> Float[Tensor, "..."]:
    """log Σ exp(src_j) over the values that share an index, 0 where there are none.

    With `out` its values take part, and it is overwritten: a group without values keeps its own,
    where torch_scatter 2.1.2 puts 0, which its authors call a bug (issue 444 there), and runs over
    for values far above those of `src`. Arguments as for `scatter_sum`.

    >>> scatter_logsumexp(torch.zeros(3), torch.tensor([2, 0, 2]))
    tensor([0.0000, 0.0000, 0.6931])
    """
    _check_float(src, "scatter_logsumexp")
    y = _log_sum(src, index, dim, _size(index, dim, out, dim_size), eps)
    if out is not None:
        return out.copy_(torch.logaddexp(out, y))
    return y.masked_fill(y == -torch.inf, 0.0)
