"""segment_coo, segment_csr and their gathers: torch_scatter's reductions of sorted rows.

As in torch_scatter, an `index` or `indptr` of m dimensions works along dimension m − 1 of `src`,
and those before broadcast. With `out`, `segment_coo` goes on from its values and `segment_csr`
overwrites them, always: torch_scatter 2.1.2 (CPU) starts the first group that has rows from row 0
of `out`, gives a row of another group where `out` held the largest or smallest value, and leaves
`out` as it was if `src` holds nothing, none of which its documentation says.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from meshsim.check import InputError
from meshsim.ops.scatter import (
    _count,
    _run,
    _size,
    scatter_max,
    scatter_min,
    scatter_sum,
)
from meshsim.ops.segment import call


def _along(index: Tensor, src: Tensor) -> tuple[Tensor, int]:
    if not 0 < index.dim() <= src.dim():
        raise InputError(
            f"`index`: expected 1 to {src.dim()} dimensions (those of `src`), got {index.dim()}"
        )
    return index, index.dim() - 1


def segment_sum_coo(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    out: Tensor | None = None,
    dim_size: int | None = None,
) -> Shaped[Tensor, "..."]:
    """Sums of the rows with the same index, along the last dimension of `index`.

    Arguments:
        src: any shape.
        index: int64, of at most as many dimensions as `src`, quickest if it rises.
        out: added to in place, if given.
        dim_size: length of the result; the largest index + 1 if neither is given.

    >>> segment_sum_coo(torch.tensor([1., 2., 4.]), torch.tensor([0, 2, 2]))
    tensor([1., 0., 6.])
    """
    return scatter_sum(src, *_along(index, src), out, dim_size)


def segment_add_coo(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    out: Tensor | None = None,
    dim_size: int | None = None,
) -> Shaped[Tensor, "..."]:
    """The same as `segment_sum_coo`."""
    return segment_sum_coo(src, index, out, dim_size)


def segment_mean_coo(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    out: Tensor | None = None,
    dim_size: int | None = None,
) -> Shaped[Tensor, "..."]:
    """Means of the rows with the same index, integers rounded to zero; see `segment_sum_coo`.

    With `out` it is (out + sum) / count, `out` itself where there are no rows.

    >>> segment_mean_coo(torch.tensor([1., 2., 4.]), torch.tensor([0, 2, 2]))
    tensor([1., 0., 3.])
    """
    index, dim = _along(index, src)
    n = _size(index, dim, out, dim_size)
    if out is None and src.is_floating_point():
        return _run("mean", src, index, dim, n)[0]
    total = segment_sum_coo(src, index, out, n)
    mode = None if src.is_floating_point() else "trunc"
    return total.div_(_count(src, index, dim, n), rounding_mode=mode)


def segment_min_coo(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    out: Tensor | None = None,
    dim_size: int | None = None,
) -> tuple[Shaped[Tensor, "..."], Int[Tensor, "..."]]:
    """Smallest of the rows with the same index, and where; see `segment_sum_coo`, `scatter_min`."""
    return scatter_min(src, *_along(index, src), out, dim_size)


def segment_max_coo(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    out: Tensor | None = None,
    dim_size: int | None = None,
) -> tuple[Shaped[Tensor, "..."], Int[Tensor, "..."]]:
    """Largest of the rows with the same index, and where; see `segment_sum_coo`, `scatter_max`."""
    return scatter_max(src, *_along(index, src), out, dim_size)


def segment_coo(
    src: Shaped[Tensor, "..."],
    index: Int[Tensor, "..."],
    out: Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> Shaped[Tensor, "..."]:
    """`segment_sum_coo`, `_add_`, `_mean_`, `_min_` or `_max_`, by name; values only.

    >>> segment_coo(torch.tensor([1., 2., 4.]), torch.tensor([0, 2, 2]), reduce="max")
    tensor([1., 0., 4.])
    """
    y = _named(reduce, _COO)(src, index, out, dim_size)
    return y[0] if isinstance(y, tuple) else y


def gather_coo(
    src: Shaped[Tensor, "..."], index: Int[Tensor, "..."], out: Tensor | None = None
) -> Shaped[Tensor, "..."]:
    """The row of `src` that each index names, along the last dimension of `index`.

    >>> gather_coo(torch.tensor([1., 2., 4.]), torch.tensor([0, 2, 2]))
    tensor([1., 4., 4.])
    """
    index, dim = _along(index, src)
    if index.dim() == 1:
        rows = src.index_select(0, index)
    else:
        shape = (*src.shape[:dim], index.shape[dim], *src.shape[dim + 1 :])
        wide = index.view(*index.shape, *[1] * (src.dim() - index.dim()))
        rows = src.gather(dim, wide.expand(shape))
    return rows if out is None else out.copy_(rows)


_OPERATORS = {
    name: getattr(torch.ops.meshsim, f"segment_{name}").default
    for name in ("sum", "mean", "max", "min")
}


def _csr(name: str, src: Tensor, indptr: Tensor) -> tuple[Tensor, Tensor | None]:
    op = _OPERATORS[name]
    indptr, dim = _along(indptr, src)
    if indptr.shape[-1] == 0:  # torch_scatter takes it for no segments
        indptr = indptr.new_zeros(*indptr.shape[:-1], 1)
        src = src.narrow(dim, 0, 0)
    if dim:
        return _csr_by_batch(name, op, src, indptr, dim)
    rows, first = src.shape[0], 0
    ends = indptr.numpy() if indptr.is_cpu else None  # far quicker to read than a tensor
    if ends is not None and (ends[0] != 0 or ends[-1] != rows):
        first, last = int(ends[0]), int(ends[-1])
        if not 0 <= first <= last <= rows:
            raise InputError(f"`indptr`: expected to rise within 0..{rows}, got {first} to {last}")
        src, indptr = src[first:last], indptr - first
    y = call(op, src, indptr)
    if not isinstance(y, tuple):
        return y, None
    return y if src.shape[0] == rows else (y[0], _moved(y[1], src.shape[0], first, rows))


def _moved(arg: Tensor, none: int, by: int | Tensor, none_after: int) -> Tensor:
    return torch.where(arg == none, none_after, arg + by)


def _csr_by_batch(
    name: str, op: Callable[..., Any], src: Tensor, indptr: Tensor, dim: int
) -> tuple[Tensor, Tensor | None]:
    lead, rows, n = src.shape[:dim], src.shape[dim], indptr.shape[-1] - 1
    shape = (*lead, n, *src.shape[dim + 1 :])
    ptr = indptr.expand(*lead, n + 1).reshape(-1, n + 1)  # (B, n + 1)
    whole = bool(((ptr[:, 0] == 0) & (ptr[:, -1] == rows)).all())
    if not whole:
        parts = [
            _csr(name, a, p) for a, p in zip(src.reshape(-1, *src.shape[dim:]), ptr, strict=True)
        ]
        values = torch.stack([p[0] for p in parts]).view(shape)
        args = [p[1] for p in parts if p[1] is not None]
        return values, torch.stack(args).view(shape) if args else None
    first = torch.arange(len(ptr), device=ptr.device).view(-1, 1) * rows  # (B, 1)
    flat = torch.cat([(ptr[:, :-1] + first).reshape(-1), ptr.new_full((1,), len(ptr) * rows)])
    y = call(op, src.reshape(len(ptr) * rows, prod(src.shape[dim + 1 :])), flat)
    if not isinstance(y, tuple):
        return y.view(shape), None
    arg = _moved(y[1].view(len(ptr), n, -1), len(ptr) * rows, -first.view(-1, 1, 1), rows)
    return y[0].view(shape), arg.view(shape)


def segment_sum_csr(
    src: Shaped[Tensor, "..."], indptr: Int[Tensor, "..."], out: Tensor | None = None
) -> Shaped[Tensor, "..."]:
    """Sums of rows indptr_i … indptr_{i+1} − 1, along the last dimension of `indptr`.

    Arguments:
        src: any shape.
        indptr: int64, of at most as many dimensions as `src`, rising.
        out: overwritten, if given.

    >>> segment_sum_csr(torch.tensor([1., 2., 4.]), torch.tensor([0, 1, 1, 3]))
    tensor([1., 0., 6.])
    """
    y, _ = _csr("sum", src, indptr)
    return y if out is None else out.copy_(y)


def segment_add_csr(
    src: Shaped[Tensor, "..."], indptr: Int[Tensor, "..."], out: Tensor | None = None
) -> Shaped[Tensor, "..."]:
    """The same as `segment_sum_csr`."""
    return segment_sum_csr(src, indptr, out)


def segment_mean_csr(
    src: Shaped[Tensor, "..."], indptr: Int[Tensor, "..."], out: Tensor | None = None
) -> Shaped[Tensor, "..."]:
    """Means of rows indptr_i … indptr_{i+1} − 1, integers rounded to zero.

    >>> segment_mean_csr(torch.tensor([1., 2., 4.]), torch.tensor([0, 1, 1, 3]))
    tensor([1., 0., 3.])
    """
    if src.is_floating_point():
        y, _ = _csr("mean", src, indptr)
    else:
        count = indptr.diff().clamp_(min=1)
        count = count.view(*count.shape, *[1] * (src.dim() - indptr.dim()))
        y = _csr("sum", src, indptr)[0].div_(count, rounding_mode="trunc")
    return y if out is None else out.copy_(y)


def _csr_extreme(
    name: str, src: Tensor, indptr: Tensor, out: Tensor | None
) -> tuple[Tensor, Tensor]:
    y, arg = _csr(name, src, indptr)
    assert arg is not None
    return (y, arg) if out is None else (out.copy_(y), arg)


def segment_min_csr(
    src: Shaped[Tensor, "..."], indptr: Int[Tensor, "..."], out: Tensor | None = None
) -> tuple[Shaped[Tensor, "..."], Int[Tensor, "..."]]:
    """Smallest of rows indptr_i … indptr_{i+1} − 1, and where; see `scatter_min`."""
    return _csr_extreme("min", src, indptr, out)


def segment_max_csr(
    src: Shaped[Tensor, "..."], indptr: Int[Tensor, "..."], out: Tensor | None = None
) -> tuple[Shaped[Tensor, "..."], Int[Tensor, "..."]]:
    """Largest of rows indptr_i … indptr_{i+1} − 1, and where; see `scatter_max`."""
    return _csr_extreme("max", src, indptr, out)


def segment_csr(
    src: Shaped[Tensor, "..."],
    indptr: Int[Tensor, "..."],
    out: Tensor | None = None,
    reduce: str = "sum",
) -> Shaped[Tensor, "..."]:
    """`segment_sum_csr`, `_add_`, `_mean_`, `_min_` or `_max_`, by name; values only.

    >>> segment_csr(torch.tensor([1., 2., 4.]), torch.tensor([0, 1, 1, 3]), reduce="max")
    tensor([1., 0., 4.])
    """
    y = _named(reduce, _CSR)(src, indptr, out)
    return y[0] if isinstance(y, tuple) else y


def gather_csr(
    src: Shaped[Tensor, "..."], indptr: Int[Tensor, "..."], out: Tensor | None = None
) -> Shaped[Tensor, "..."]:
    """Row i of `src` to rows indptr_i … indptr_{i+1} − 1 of the result.

    >>> gather_csr(torch.tensor([1., 2., 4.]), torch.tensor([0, 1, 1, 3]))
    tensor([1., 4., 4.])
    """
    indptr, dim = _along(indptr, src)
    if src.numel() == 0:
        rows = src.narrow(dim, 0, 0).clone()
    else:
        n, lead = src.shape[dim], src.shape[:dim]
        ptr = indptr.expand(*lead, indptr.shape[-1]).reshape(-1, indptr.shape[-1])
        length = int(ptr[-1, -1]) if out is None else out.shape[dim]
        first = torch.arange(len(ptr), device=ptr.device).view(-1, 1) * length
        flat = torch.cat([(ptr[:, :-1] + first).reshape(-1), (ptr[-1, -1:] + first[-1])])
        x = src.reshape(len(ptr) * n, prod(src.shape[dim + 1 :]))
        rows = torch.ops.meshsim.segment_spread(x, flat, len(ptr) * length, False)
        rows = rows.view(*lead, length, *src.shape[dim + 1 :])
    return rows if out is None else out.copy_(rows)


_COO: dict[str, Callable[..., Any]] = {
    "sum": segment_sum_coo,
    "add": segment_sum_coo,
    "mean": segment_mean_coo,
    "min": segment_min_coo,
    "max": segment_max_coo,
}
_CSR: dict[str, Callable[..., Any]] = {
    "sum": segment_sum_csr,
    "add": segment_sum_csr,
    "mean": segment_mean_csr,
    "min": segment_min_csr,
    "max": segment_max_csr,
}


def _named(reduce: str, known: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    if reduce not in known:
        raise InputError(f"`reduce`: expected {', '.join(known)}, got {reduce!r}")
    return known[reduce]
