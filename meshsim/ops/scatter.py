"""scatter and its kin: reductions by an index along any dimension, as in torch_scatter.

Names, arguments, broadcasting and results are those of torch_scatter 2.1.2 (M. Fey), so that code
written for it runs unchanged after `import meshsim.ops as torch_scatter`. Beyond it: results have
the same bits on every run, an index out of range is an error, NaN counts as largest and smallest,
a largest or smallest value may be infinite, and an `index` need not be sorted for `segment_coo`.
Where it errs with `out` ours does not: see `scatter_logsumexp` and the top of scatter_segments.py.

`index` has the shape of `src`, or is one that broadcasts to it: one dimension means along `dim`.
`fill_value` is what torch_scatter 1 had: what groups hold before anything is added to them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from meshsim.check import InputError, check_index
from meshsim.ops import scatter_rows  # noqa: F401  defines the operators
from meshsim.ops.segment import call

_OPERATORS = {
    name: getattr(torch.ops.meshsim, f"scatter_{name}").default
    for name in ("sum", "mean", "mul", "max", "min", "softmax", "logsumexp")
}


def broadcast(index: Tensor, src: Tensor, dim: int) -> Tensor:
    """`index` in the shape of `src`: one dimension goes along `dim`, others from the left."""
    dim = _dim(src, dim)
    if index.dim() == 1:
        index = index.view([1] * dim + [-1])
    index = index.view(*index.shape, *[1] * (src.dim() - index.dim()))
    try:
        return index.expand(src.shape)
    except RuntimeError:
        raise InputError(
            f"`index`: expected a shape that broadcasts to {tuple(src.shape)} along dimension"
            f" {dim}, got {tuple(index.shape)}"
        ) from None


def _size(index: Tensor, dim: int, out: Tensor | None, dim_size: int | None) -> int:
    if out is not None:
        return out.shape[dim]
    if dim_size is not None:
        return dim_size
    return int(index.max()) + 1 if index.numel() else 0


def _constant(index: Tensor, dims: range) -> bool:
    return all(index.stride(i) == 0 or index.shape[i] == 1 for i in dims)


def _run(name: str, src: Tensor, index: Tensor, dim: int, n: int) -> tuple[Tensor, Tensor | None]:
    """An operator of `scatter_rows` along `dim`; softmax keeps the shape of `src`."""
    op = _OPERATORS[name]
    if index.dim() == 1:
        return call(_run_rows, src, op, index, dim, n)
    shape = list(src.shape)
    dim = _dim(src, dim)
    rows = shape[dim]
    if name != "softmax":
        shape[dim] = n
    index = broadcast(index, src, dim)
    if not _constant(index, range(dim + 1, index.dim())):
        moved = _run(name, src.movedim(dim, -1), index.movedim(dim, -1), -1, n)
        return tuple(None if t is None else t.movedim(-1, dim).contiguous() for t in moved)  # type: ignore
    if src.numel() == 0:
        rows_of = src.reshape(0, 0, 0)
        y = call(op, rows_of, index.new_empty(0), 0)
        made = y if isinstance(y, tuple) else (y, None)
        value = made[0].new_full(shape, 1 if name == "mul" else 0)
        return value, None if made[1] is None else made[1].new_full(shape, rows)
    for _ in range(src.dim() - dim - 1):
        index = index.select(-1, 0)
    if not _constant(index, range(dim)):
        return _by_batch(op, src, index, dim, n, shape)
    for _ in range(dim):
        index = index.select(0, 0)
    return call(_run_rows, src, op, index, dim, n)


def _run_rows(
    src: Tensor, op: Callable[..., Any], index: Tensor, dim: int, n: int
) -> tuple[Tensor, Tensor | None]:
    """The same for an index of one dimension: along `dim`, equal for all the others."""
    if src.dim() == 2:  # the usual case, without arithmetic of shapes
        side = -_dim(src, dim)
        y = op(src.unsqueeze(side), _as_long(index, src.shape[dim]), n)  # (B, E, 1) or (1, E, K)
        values, arg = y if isinstance(y, tuple) else (y, None)
        return values.squeeze(side), None if arg is None else arg.squeeze(side)
    dim = _dim(src, dim)
    before, rows, after = prod(src.shape[:dim]), src.shape[dim], prod(src.shape[dim + 1 :])
    y = op(src.reshape(before, rows, after), _as_long(index, rows), n)
    values, arg = y if isinstance(y, tuple) else (y, None)
    shape = (*src.shape[:dim], values.shape[1], *src.shape[dim + 1 :])
    return values.view(shape), None if arg is None else arg.view(shape)


def _dim(src: Tensor, dim: int) -> int:
    if not -src.dim() <= dim < src.dim():
        raise InputError(f"`dim`: expected a dimension of {tuple(src.shape)}, got {dim}")
    return dim % src.dim()


def _as_long(index: Tensor, rows: int | torch.SymInt) -> Tensor:
    return index.expand(rows) if len(index) == 1 != rows else index


def _by_batch(
    op: torch._ops.OpOverload,
    src: Tensor,
    index: Tensor,
    dim: int,
    n: int,
    shape: list[int],
) -> tuple[Tensor, Tensor | None]:
    # Every batch has groups of its own: one long list of rows into one long list of groups.
    batch, rows = prod(shape[:dim]), src.shape[dim]
    if index.is_cpu:
        check_index(index, n, "index", "groups")
    first = torch.arange(batch, device=index.device).view(-1, 1)
    flat = (index.reshape(batch, rows) + first * n).reshape(-1)
    y = call(op, src.reshape(1, batch * rows, prod(shape[dim + 1 :])), flat, batch * n)
    if not isinstance(y, tuple):
        return y.view(shape), None
    arg = y[1].view(batch, n, -1) - first.view(-1, 1, 1) * rows
    arg = torch.where(y[1].view(batch, n, -1) == batch * rows, rows, arg)
    return y[0].view(shape), arg.view(shape)


def _filled(
    src: Tensor, index: Tensor, dim: int, out: Tensor | None, n: int | None, value: float | None
) -> Tensor | None:
    if out is not None or value is None:
        return out
    shape = list(src.shape)
    shape[dim] = _size(index, dim, None, n)
    return src.new_full(shape, value)


def scatter_sum(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    fill_value: float | None = None,
) -> Shaped[Tensor, "..."]:
    """Sums of the values of `src` that share an index: out_i = Σ_{index_j = i} src_j.

    Arguments:
        src: any shape.
        index: int64, see the top of this file.
        dim: the dimension along which to reduce.
        out: added to in place, if given.
        dim_size: length of the result along `dim`; the largest index + 1 if neither is given.

    Returns:
        `src`'s shape with another length along `dim`.

    Raises:
        InputError: an index outside 0..dim_size-1, or of a shape that does not broadcast.

    >>> scatter_sum(torch.tensor([1., 2., 4.]), torch.tensor([2, 0, 2]))
    tensor([2., 0., 5.])
    """
    out = _filled(src, index, dim, out, dim_size, fill_value)
    total, _ = _run("sum", src, index, dim, _size(index, dim, out, dim_size))
    return total if out is None else out.add_(total)


def scatter_add(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    fill_value: float | None = None,
) -> Shaped[Tensor, "..."]:
    """The same as `scatter_sum`."""
    return scatter_sum(src, index, dim, out, dim_size, fill_value)


def scatter_mul(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    fill_value: float | None = None,
) -> Shaped[Tensor, "..."]:
    """Products of the values that share an index, 1 where there are none; see `scatter_sum`.

    As in torch_scatter they are all 0 if `src` holds nothing and there is no `out`. The gradient of
    a value that is 0 is given as 0.

    >>> scatter_mul(torch.tensor([3., 2., 4.]), torch.tensor([2, 0, 2]))
    tensor([ 2.,  1., 12.])
    """
    out = _filled(src, index, dim, out, dim_size, fill_value)
    product, _ = _run("mul", src, index, dim, _size(index, dim, out, dim_size))
    if out is not None:
        return out.mul_(product)
    return product.zero_() if src.numel() == 0 else product


def _count(src: Tensor, index: Tensor, dim: int, n: int) -> Tensor:
    """How many values went where, in a shape that broadcasts to the result's; at least 1."""
    dim = dim % src.dim()
    if index.dim() == 1:
        index = index.expand(src.shape[dim])
        ones = torch.ones(len(index), dtype=torch.int64, device=src.device)
        count = _run("sum", ones, index, 0, n)[0].view([-1] + [1] * (src.dim() - dim - 1))
    else:
        ones = torch.ones(1, dtype=torch.int64, device=src.device).expand(src.shape)
        count = _run("sum", ones, broadcast(index, src, dim), dim, n)[0]
    return count.clamp_(min=1)


def scatter_mean(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    fill_value: float | None = None,
) -> Shaped[Tensor, "..."]:
    """Means of the values that share an index, 0 where there are none; see `scatter_sum`.

    Integers are divided rounding down. With `out` it is (out + sum) / count.

    >>> scatter_mean(torch.tensor([1., 2., 4.]), torch.tensor([2, 0, 2]))
    tensor([2.0000, 0.0000, 2.5000])
    """
    out = _filled(src, index, dim, out, dim_size, fill_value)
    n = _size(index, dim, out, dim_size)
    if out is None:
        return _run("mean", src, index, dim, n)[0]
    out.add_(_run("sum", src, index, dim, n)[0])
    mode = None if out.is_floating_point() else "floor"
    return out.div_(_count(src, index, dim, n), rounding_mode=mode)


def keep_better(
    name: str, values: Tensor, arg: Tensor, out: Tensor | None, rows: int
) -> tuple[Tensor, Tensor]:
    """Put into `out` what lies beyond its values; `arg` is `rows` where `out` stays."""
    if out is None:
        return values, arg
    within = values <= out if name == "max" else values >= out
    take = (arg != rows) & ~within & (out == out)
    out.copy_(torch.where(take, values, out))
    return out, arg.masked_fill(~take, rows)


def _scatter_extreme(
    name: str,
    src: Tensor,
    index: Tensor,
    dim: int,
    out: Tensor | None,
    dim_size: int | None,
    fill_value: float | None,
) -> tuple[Tensor, Tensor]:
    out = _filled(src, index, dim, out, dim_size, fill_value)
    values, arg = _run(name, src, index, dim, _size(index, dim, out, dim_size))
    assert arg is not None
    return keep_better(name, values, arg, out, src.shape[dim])


def scatter_min(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    fill_value: float | None = None,
) -> tuple[Shaped[Tensor, "..."], Int[Tensor, "..."]]:
    """Smallest of the values that share an index, and where along `dim` it stands.

    Arguments as for `scatter_sum`.

    Returns:
        values, 0 where there are none; int64 places, the first of equals, `src.shape[dim]` where
        there are none or where `out` already held the smallest.

    >>> scatter_min(torch.tensor([1., 2., 4.]), torch.tensor([2, 0, 2]))
    (tensor([2., 0., 1.]), tensor([1, 3, 0]))
    """
    return _scatter_extreme("min", src, index, dim, out, dim_size, fill_value)


def scatter_max(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    fill_value: float | None = None,
) -> tuple[Shaped[Tensor, "..."], Int[Tensor, "..."]]:
    """Largest of the values that share an index; everything else as for `scatter_min`.

    >>> scatter_max(torch.tensor([1., 2., 4.]), torch.tensor([2, 0, 2]))
    (tensor([2., 0., 4.]), tensor([1, 3, 2]))
    """
    return _scatter_extreme("max", src, index, dim, out, dim_size, fill_value)


def scatter(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> Shaped[Tensor, "..."]:
    """`scatter_sum`, `_add`, `_mul`, `_mean`, `_min` or `_max`, by name; values only.

    >>> scatter(torch.tensor([1., 2., 4.]), torch.tensor([2, 0, 2]), reduce="max")
    tensor([2., 0., 4.])
    """
    if reduce in ("sum", "add"):
        return scatter_sum(src, index, dim, out, dim_size)
    if reduce == "mul":
        return scatter_mul(src, index, dim, out, dim_size)
    if reduce == "mean":
        return scatter_mean(src, index, dim, out, dim_size)
    if reduce in ("min", "max"):
        return _scatter_extreme(reduce, src, index, dim, out, dim_size, None)[0]
    raise InputError(f"`reduce`: expected sum, add, mul, mean, min or max, got {reduce!r}")
