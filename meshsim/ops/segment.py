"""Reductions over consecutive rows: segment i is the rows `rowptr[i]:rowptr[i + 1]`.

Every result has the same bits on every run and every number of threads: a segment is summed in
the order of its rows, a very long one in pieces cut by its length alone, with float32 accumulation
for bfloat16 and float16.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, is_grad_enabled
from torch._C import _AutoDispatchBelowAutograd
from torch.compiler import is_compiling
from torch.nn.functional import embedding_bag

from meshsim.check import InputError
from meshsim.ops.gradients import again

_NAMES = ("sum", "mean", "max", "min", "softmax", "logsumexp")
for _name in _NAMES:
    _out = "(Tensor, Tensor)" if _name in ("max", "min") else "Tensor"
    torch.library.define(
        f"meshsim::segment_{_name}",
        f"(Tensor x, Tensor rowptr, Tensor? index=None) -> {_out}",
        tags=(torch.Tag.pt2_compliant_tag,),
    )
for _name, _inputs in {
    "spread": "Tensor x, Tensor rowptr, SymInt rows, bool mean",
    "place": "Tensor x, Tensor arg, Tensor rowptr, SymInt rows",
    "softmax_backward": "Tensor grad, Tensor y, Tensor rowptr",
    "logsumexp_backward": "Tensor grad, Tensor x, Tensor y, Tensor rowptr",
}.items():
    torch.library.define(
        f"meshsim::segment_{_name}",
        f"({_inputs}) -> Tensor",
        tags=(torch.Tag.pt2_compliant_tag,),
    )


def check_rowptr(rowptr: Tensor, n: int, name: str = "rowptr") -> None:
    """Raise `InputError` unless `rowptr` is int64 and rises from 0 to `n`."""
    if rowptr.dim() != 1 or rowptr.shape[0] == 0 or rowptr.dtype != torch.int64:
        raise InputError(
            f"`{name}`: expected int64 of shape (N + 1,), got {rowptr.dtype} {tuple(rowptr.shape)}"
        )
    # Reading values of a CUDA tensor would wait for the device at every call; while a program is
    # exported there are none.
    if rowptr.is_cpu and not torch.compiler.is_exporting():
        a = rowptr.numpy()  # a third of the time that tensor operations take on a small graph
        if a[0] != 0 or a[-1] != n or (a[1:] < a[:-1]).any():
            raise InputError(
                f"`{name}`: expected to rise from 0 to {n} (the rows), got {a[0]} to {a[-1]}"
                + ("" if (a[0], a[-1]) != (0, n) else ", not rising")
            )


def check_devices(like: Tensor, **others: Tensor | None) -> None:
    """Raise `InputError` unless all lie on one device: a mixture that holds a meta tensor reaches
    the fake kernel, which would hand out memory that nobody has written.
    """
    for name, x in others.items():
        if x is not None and x.device != like.device:
            raise InputError(f"`{name}`: expected a tensor on {like.device}, got one on {x.device}")


def expand_rowptr(rowptr: Int[Tensor, " R"], n: int | torch.SymInt) -> Int[Tensor, " E"]:
    """(E,) the segment of each row: what `index` is when it is not given.

    >>> expand_rowptr(torch.tensor([0, 2, 2, 3]), 3).tolist()
    [0, 0, 2]
    """
    return torch.repeat_interleave(rowptr.diff(), output_size=n)


def _index(index: Tensor | None, rowptr: Tensor, n: int | torch.SymInt) -> Tensor:
    return expand_rowptr(rowptr, n) if index is None else index


def _bags(x: Tensor, rowptr: Tensor, mode: str) -> Tensor:
    # Bags of consecutive rows: on CPUs the fastest reduction torch has (vectorised, parallel
    # over bags, accumulators in registers), and without atomics on CUDA.
    n, width = x.shape[0], prod(x.shape[1:])
    if width == 0:  # embedding_bag wants columns
        return x.new_zeros(rowptr.shape[0] - 1, *x.shape[1:])
    rows = x.detach().reshape(n, width).contiguous()
    ids = torch.arange(n, device=x.device)
    out = embedding_bag(ids, rows, rowptr, mode=mode, include_last_offset=True)
    return out.reshape(rowptr.shape[0] - 1, *x.shape[1:])


def _columns(index: Tensor, x: Tensor) -> Tensor:
    return index.view(-1, *[1] * (x.dim() - 1)).expand_as(x)  # (E, *) from (E,)


def _sum(x: Tensor, rowptr: Tensor, index: Tensor | None = None) -> Tensor:
    check_rowptr(rowptr, x.shape[0])
    if x.is_floating_point():
        return _bags(x, rowptr, "sum")
    out = x.new_zeros(rowptr.shape[0] - 1, *x.shape[1:])
    return out.index_add_(0, _index(index, rowptr, x.shape[0]), x)


def _mean(x: Tensor, rowptr: Tensor, index: Tensor | None = None) -> Tensor:
    check_rowptr(rowptr, x.shape[0])
    return _bags(x, rowptr, "mean")


def _extreme(reduce: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def extreme(x: Tensor, rowptr: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        n = x.shape[0]
        check_rowptr(rowptr, n)
        x = x.detach()
        # Bags know no NaN, and a sum that is none has met none.
        seen = x.is_cpu and x.is_floating_point() and not torch.compiler.is_exporting()
        if seen and not bool(x.sum().isnan()):
            return _bag_extreme(x, rowptr, reduce)
        index = _index(index, rowptr, n)
        wide = _columns(index, x)
        values = x.new_zeros(rowptr.shape[0] - 1, *x.shape[1:])
        values = values.scatter_reduce(0, wide, x, reduce, include_self=False)
        at = values.index_select(0, index)
        hit = x == at
        if x.is_floating_point():
            hit = hit | (x.isnan() & at.isnan())
        rows = _columns(torch.arange(n, device=x.device), x)
        arg = torch.full(values.shape, n, dtype=torch.int64, device=x.device)
        return values, arg.scatter_reduce(0, wide, torch.where(hit, rows, n), "amin")

    return extreme


def _bag_extreme(x: Tensor, rowptr: Tensor, reduce: str) -> tuple[Tensor, Tensor]:
    n, shape = x.shape[0], (len(rowptr) - 1, *x.shape[1:])
    rows = x.reshape(n, prod(x.shape[1:]))
    rows = rows.contiguous() if reduce == "amax" else -rows
    bags = torch.embedding_bag(
        rows, torch.arange(n), rowptr, mode=2, include_last_offset=True
    )  # mode 2: the largest, the first of equals; 0 for empty bags
    values, arg = bags[0].reshape(shape), bags[3].reshape(shape)
    empty = (rowptr.diff() == 0).view(-1, *[1] * (x.dim() - 1))
    return values if reduce == "amax" else 0.0 - values, arg.masked_fill_(empty, n)


def _shifted(x: Tensor, rowptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    top = x.new_zeros(rowptr.shape[0] - 1, *x.shape[1:])
    top.scatter_reduce_(0, _columns(index, x), x, "amax", include_self=False)
    top.masked_fill_(~top.isfinite(), 0.0)
    return (x - top.index_select(0, index)).exp_(), top  # (E, *), (N, *)


def _softmax(x: Tensor, rowptr: Tensor, index: Tensor | None = None) -> Tensor:
    check_rowptr(rowptr, x.shape[0])
    index = _index(index, rowptr, x.shape[0])
    e, _ = _shifted(x, rowptr, index)
    return e.div_(_bags(e, rowptr, "sum").index_select(0, index)).to(x.dtype)


def _logsumexp(x: Tensor, rowptr: Tensor, index: Tensor | None = None) -> Tensor:
    check_rowptr(rowptr, x.shape[0])
    e, top = _shifted(x, rowptr, _index(index, rowptr, x.shape[0]))
    return _bags(e, rowptr, "sum").log_().add_(top).to(x.dtype)


def _counts(rowptr: Tensor, like: Tensor) -> Tensor:
    return rowptr.diff().clamp_min(1).to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def _spread(x: Tensor, rowptr: Tensor, rows: int, mean: bool) -> Tensor:
    check_rowptr(rowptr, rows)
    x = x.detach()
    if mean:
        x = x / _counts(rowptr, x)
    return x.index_select(0, expand_rowptr(rowptr, rows))


def _place(x: Tensor, arg: Tensor, rowptr: Tensor, rows: int) -> Tensor:
    check_rowptr(rowptr, rows)
    out = x.new_zeros(rows + 1, *x.shape[1:])  # the last row takes empty segments
    return out.scatter_(0, arg, x.detach())[:-1].clone()


def _softmax_gradient(grad: Tensor, y: Tensor, rowptr: Tensor) -> Tensor:
    dot = torch.ops.meshsim.segment_sum(grad * y, rowptr)
    return y * (grad - torch.ops.meshsim.segment_spread(dot, rowptr, y.shape[0], False))


def _logsumexp_gradient(grad: Tensor, x: Tensor, y: Tensor, rowptr: Tensor) -> Tensor:
    both = torch.stack([grad, y], 1)  # (N, 2, *)
    g, top = torch.ops.meshsim.segment_spread(both, rowptr, x.shape[0], False).unbind(1)
    return g * (x - top).exp()


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, rowptr, _ = inputs
    ctx.save_for_backward(x, rowptr, output)


def _save_result(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1], output[1] if isinstance(output, tuple) else output)
    ctx.n = inputs[0].shape[0]


def _save_rows(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])  # x itself is not needed: do not keep it alive
    ctx.n = inputs[0].shape[0]


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.meshsim.segment_spread(grad, *ctx.saved_tensors, ctx.n, False), None, None


def _mean_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.meshsim.segment_spread(grad, *ctx.saved_tensors, ctx.n, True), None, None


def _extreme_backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:
    rowptr, arg = ctx.saved_tensors
    return torch.ops.meshsim.segment_place(grad, arg, rowptr, ctx.n), None, None


def _softmax_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    rowptr, y = ctx.saved_tensors
    found = _softmax_gradient if again() else torch.ops.meshsim.segment_softmax_backward
    return found(grad, y, rowptr), None, None


def _logsumexp_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    x, rowptr, y = ctx.saved_tensors
    found = _logsumexp_gradient if again() else torch.ops.meshsim.segment_logsumexp_backward
    return found(grad, x, y, rowptr), None, None


def _save_spread(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.mean = inputs[3]


def _spread_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    reduce = torch.ops.meshsim.segment_mean if ctx.mean else torch.ops.meshsim.segment_sum
    return reduce(grad, *ctx.saved_tensors), None, None, None


def _save_place(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])


def _place_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (arg,) = ctx.saved_tensors
    padded = torch.cat([grad, grad.new_zeros(1, *grad.shape[1:])])  # for empty segments
    return padded.gather(0, arg), None, None, None


def _fake_rows(x: Tensor, rowptr: Tensor, index: Tensor | None = None) -> Tensor:
    check_devices(x, rowptr=rowptr, index=index)
    return x.new_empty(rowptr.shape[0] - 1, *x.shape[1:])


def _fake_pair(x: Tensor, rowptr: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
    values = _fake_rows(x, rowptr, index)
    return values, torch.empty_like(values, dtype=torch.int64)


def _fake_like(x: Tensor, rowptr: Tensor, index: Tensor | None = None) -> Tensor:
    check_devices(x, rowptr=rowptr, index=index)
    return x.new_empty(x.shape)


def _fake_spread(x: Tensor, rowptr: Tensor, rows: int | torch.SymInt, mean: bool) -> Tensor:
    check_devices(x, rowptr=rowptr)
    return x.new_empty(rows, *x.shape[1:])


def _fake_place(x: Tensor, arg: Tensor, rowptr: Tensor, rows: int | torch.SymInt) -> Tensor:
    check_devices(x, arg=arg, rowptr=rowptr)
    return x.new_empty(rows, *x.shape[1:])


_PARTS: dict[str, tuple[Callable[..., Any], ...]] = {
    "sum": (_sum, _fake_rows, _sum_backward, _save_rows),
    "mean": (_mean, _fake_rows, _mean_backward, _save_rows),
    "max": (_extreme("amax"), _fake_pair, _extreme_backward, _save_result),
    "min": (_extreme("amin"), _fake_pair, _extreme_backward, _save_result),
    "softmax": (_softmax, _fake_like, _softmax_backward, _save_result),
    "logsumexp": (_logsumexp, _fake_rows, _logsumexp_backward, _save),
    "spread": (_spread, _fake_spread, _spread_backward, _save_spread),
    "place": (_place, _fake_place, _place_backward, _save_place),
}
for _name, (_reference, _fake, _backward, _setup) in _PARTS.items():
    _full = f"meshsim::segment_{_name}"
    torch.library.impl(_full, "CompositeExplicitAutograd", _reference)
    torch.library.register_fake(_full, _fake)
    torch.library.register_autograd(_full, _backward, setup_context=_setup)


@torch.library.impl("meshsim::segment_softmax_backward", "CompositeExplicitAutograd")
def _softmax_backward_reference(grad: Tensor, y: Tensor, rowptr: Tensor) -> Tensor:
    return _softmax_gradient(grad.detach(), y.detach(), rowptr)


@torch.library.impl("meshsim::segment_logsumexp_backward", "CompositeExplicitAutograd")
def _logsumexp_backward_reference(grad: Tensor, x: Tensor, y: Tensor, rowptr: Tensor) -> Tensor:
    return _logsumexp_gradient(grad.detach(), x.detach(), y.detach(), rowptr)


@torch.library.register_fake("meshsim::segment_softmax_backward")
def _fake_softmax_backward(grad: Tensor, y: Tensor, rowptr: Tensor) -> Tensor:
    check_devices(y, grad=grad, rowptr=rowptr)
    return y.new_empty(y.shape)


@torch.library.register_fake("meshsim::segment_logsumexp_backward")
def _fake_logsumexp_backward(grad: Tensor, x: Tensor, y: Tensor, rowptr: Tensor) -> Tensor:
    check_devices(x, grad=grad, y=y, rowptr=rowptr)
    return x.new_empty(x.shape)


def call(op: Callable[..., Any], x: Tensor, *rest: Any) -> Any:
    """`op(x, *rest)`, without the detour through Python where no gradient is asked for.

    On a small graph that detour, torch's wrapper around registered gradients, takes longer than
    the work.
    """
    if (x.requires_grad and is_grad_enabled()) or is_compiling():
        return op(x, *rest)
    with _AutoDispatchBelowAutograd():
        return op(x, *rest)


# Looking an operator up by name at each call takes longer than ten rows.
_SUM, _MEAN, _MAX, _MIN, _SOFTMAX, _LOGSUMEXP = (
    getattr(torch.ops.meshsim, f"segment_{name}").default for name in _NAMES
)


def segment_sum(
    x: Shaped[Tensor, "E ..."], rowptr: Int[Tensor, " R"], index: Int[Tensor, " E"] | None = None
) -> Shaped[Tensor, "N ..."]:
    """Sum of the rows of each segment: y_i = Σ_{rowptr_i ≤ k < rowptr_{i+1}} x_k.

    Arguments:
        x: (E, …) rows, sorted by segment.
        rowptr: (N + 1,) int64, rising from 0 to E.
        index: (E,) int64, the segment of each row, if at hand: saves the torch reference making it.

    Returns:
        (N, …), 0 for an empty segment.

    Raises:
        InputError: `rowptr` does not rise from 0 to E.

    >>> segment_sum(torch.tensor([1., 2., 3.]), torch.tensor([0, 2, 2, 3]))
    tensor([3., 0., 3.])
    """
    return call(_SUM, x, rowptr, index)


def segment_mean(
    x: Float[Tensor, "E ..."], rowptr: Int[Tensor, " R"], index: Int[Tensor, " E"] | None = None
) -> Float[Tensor, "N ..."]:
    """Mean of the rows of each segment, 0 for an empty one; arguments as for `segment_sum`.

    >>> segment_mean(torch.tensor([1., 2., 3.]), torch.tensor([0, 2, 2, 3]))
    tensor([1.5000, 0.0000, 3.0000])
    """
    return call(_MEAN, x, rowptr, index)


def segment_max(
    x: Shaped[Tensor, "E ..."], rowptr: Int[Tensor, " R"], index: Int[Tensor, " E"] | None = None
) -> tuple[Shaped[Tensor, "N ..."], Int[Tensor, "N ..."]]:
    """Largest row value of each segment, entry by entry, and the row it comes from.

    Arguments as for `segment_sum`.

    Returns:
        (N, …) values, 0 for an empty segment; (N, …) int64 rows, the first of equals, E for an
        empty segment. NaN counts as largest.

    >>> segment_max(torch.tensor([1., 2., -3.]), torch.tensor([0, 2, 2, 3]))
    (tensor([ 2.,  0., -3.]), tensor([1, 3, 2]))
    """
    return call(_MAX, x, rowptr, index)


def segment_min(
    x: Shaped[Tensor, "E ..."], rowptr: Int[Tensor, " R"], index: Int[Tensor, " E"] | None = None
) -> tuple[Shaped[Tensor, "N ..."], Int[Tensor, "N ..."]]:
    """Smallest row value of each segment; everything else as for `segment_max`.

    >>> segment_min(torch.tensor([1., 2., -3.]), torch.tensor([0, 2, 2, 3]))
    (tensor([ 1.,  0., -3.]), tensor([0, 3, 2]))
    """
    return call(_MIN, x, rowptr, index)


def segment_softmax(
    x: Float[Tensor, "E ..."], rowptr: Int[Tensor, " R"], index: Int[Tensor, " E"] | None = None
) -> Float[Tensor, "E ..."]:
    """Softmax over the rows of each segment: y_k = exp(x_k) / Σ_{l in the segment of k} exp(x_l).

    Arguments as for `segment_sum`.

    >>> segment_softmax(torch.tensor([7., 7., 3.]), torch.tensor([0, 2, 2, 3]))
    tensor([0.5000, 0.5000, 1.0000])
    """
    return call(_SOFTMAX, x, rowptr, index)


def segment_logsumexp(
    x: Float[Tensor, "E ..."], rowptr: Int[Tensor, " R"], index: Int[Tensor, " E"] | None = None
) -> Float[Tensor, "N ..."]:
    """log Σ exp(x_k) over the rows of each segment, −∞ for an empty one.

    Arguments as for `segment_sum`.

    >>> segment_logsumexp(torch.zeros(3), torch.tensor([0, 1, 1, 3]))
    tensor([0.0000,   -inf, 0.6931])
    """
    return call(_LOGSUMEXP, x, rowptr, index)
