"""Reductions of rows by an index in any order: the operators behind `meshsim.ops.scatter`.

A row keeps its place among those of its group (a counting sort, never atomics), so results have
the same bits on every run and every number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from meshsim.check import InputError, check_index
from meshsim.ops.gradients import again
from meshsim.ops.segment import check_devices
from meshsim.rows import by_group

_WIDE = 16  # narrower rows are sorted in more time than a fused gradient saves
_TAGS = (torch.Tag.pt2_compliant_tag,)
for _name in ("sum", "mean", "mul", "max", "min", "softmax", "logsumexp"):
    _out = "(Tensor, Tensor)" if _name in ("max", "min") else "Tensor"
    torch.library.define(
        f"meshsim::scatter_{_name}",
        f"(Tensor src, Tensor index, SymInt n) -> {_out}",
        tags=_TAGS,
    )
torch.library.define(
    "meshsim::scatter_softmax_backward",
    "(Tensor grad, Tensor y, Tensor index, SymInt n) -> Tensor",
    tags=_TAGS,
)
torch.library.define(
    "meshsim::scatter_logsumexp_backward",
    "(Tensor grad, Tensor src, Tensor y, Tensor index) -> Tensor",
    tags=_TAGS,
)


def _check(src: Tensor, index: Tensor, n: int) -> None:
    if src.dim() != 3:
        raise InputError(f"`src`: expected shape (B, E, K), got {tuple(src.shape)}")
    if index.dtype != torch.int64 or index.shape != src.shape[1:2]:
        raise InputError(
            f"`index`: expected int64 of shape ({src.shape[1]},),"
            f" got {index.dtype} {tuple(index.shape)}"
        )
    if index.is_cpu:
        check_index(index, n, "index", "groups")


def _sorted(src: Tensor, index: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (E, B, K) by group, where they came from (E,), and rowptr (n + 1,)."""
    _check(src, index, n)
    order, rowptr = by_group(index, n)
    return src.detach().index_select(1, order).transpose(0, 1).contiguous(), order, rowptr


def _back(y: Tensor) -> Tensor:
    return y.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def _sum(src: Tensor, index: Tensor, n: int) -> Tensor:
    rows, _, rowptr = _sorted(src, index, n)
    return _back(torch.ops.meshsim.segment_sum(rows, rowptr))


def _mean(src: Tensor, index: Tensor, n: int) -> Tensor:
    rows, _, rowptr = _sorted(src, index, n)
    if src.is_floating_point():
        return _back(torch.ops.meshsim.segment_mean(rows, rowptr))
    count = rowptr.diff().clamp_min(1).view(-1, 1, 1)
    total = torch.ops.meshsim.segment_sum(rows, rowptr)
    return _back(total.div(count, rounding_mode="floor").to(src.dtype))


def _mul(src: Tensor, index: Tensor, n: int) -> Tensor:
    _check(src, index, n)
    out = src.new_ones(src.shape[0], n, src.shape[2])
    wide = index.view(1, -1, 1).expand_as(src)
    return out.scatter_reduce_(1, wide, src.detach(), "prod")


def _extreme(name: str) -> Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    def extreme(src: Tensor, index: Tensor, n: int) -> tuple[Tensor, Tensor]:
        rows, order, rowptr = _sorted(src, index, n)
        values, arg = getattr(torch.ops.meshsim, f"segment_{name}")(rows, rowptr)
        from_row = torch.cat([order, order.new_full((1,), len(order))])
        return _back(values), _back(from_row[arg])

    return extreme


def _softmax(src: Tensor, index: Tensor, n: int) -> Tensor:
    rows, order, rowptr = _sorted(src, index, n)
    y = torch.ops.meshsim.segment_softmax(rows, rowptr)
    return _back(torch.empty_like(y).index_copy_(0, order, y))


def _logsumexp(src: Tensor, index: Tensor, n: int) -> Tensor:
    rows, _, rowptr = _sorted(src, index, n)
    return _back(torch.ops.meshsim.segment_logsumexp(rows, rowptr))


def _softmax_gradient(grad: Tensor, y: Tensor, index: Tensor, n: int) -> Tensor:
    dot = torch.ops.meshsim.scatter_sum(grad * y, index, n)
    return y * (grad - dot.index_select(1, index))


def _logsumexp_gradient(grad: Tensor, src: Tensor, y: Tensor, index: Tensor) -> Tensor:
    return grad.index_select(1, index) * (src - y.index_select(1, index)).exp()


def _save_index(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])


def _save_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output)


def _save_output(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1], output)
    ctx.n = inputs[2]


def _save_arg(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(output[1])
    ctx.rows = inputs[0].shape[1]


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return grad.index_select(1, *ctx.saved_tensors), None, None


def _mean_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (index,) = ctx.saved_tensors
    count = grad.new_zeros(grad.shape[1]).index_add_(0, index, grad.new_ones(index.shape))
    return (grad / count.clamp_(min=1).view(-1, 1)).index_select(1, index), None, None


def _mul_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    src, index, out = ctx.saved_tensors
    return ((grad * out).index_select(1, index) / src).nan_to_num(nan=0.0), None, None


def _extreme_backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:
    (arg,) = ctx.saved_tensors
    out = grad.new_zeros(grad.shape[0], ctx.rows + 1, grad.shape[2])  # the last: empty groups
    return out.scatter_(1, arg, grad)[:, :-1], None, None


def _softmax_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    index, y = ctx.saved_tensors
    composed = again() or y.shape[2] < _WIDE
    found = _softmax_gradient if composed else torch.ops.meshsim.scatter_softmax_backward
    return found(grad, y, index, ctx.n), None, None


def _logsumexp_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    src, index, y = ctx.saved_tensors
    composed = again() or y.shape[2] < _WIDE
    found = _logsumexp_gradient if composed else torch.ops.meshsim.scatter_logsumexp_backward
    return found(grad, src, y, index), None, None


def _fake_groups(src: Tensor, index: Tensor, n: int) -> Tensor:
    check_devices(src, index=index)
    return src.new_empty(src.shape[0], n, src.shape[2])


def _fake_pair(src: Tensor, index: Tensor, n: int) -> tuple[Tensor, Tensor]:
    values = _fake_groups(src, index, n)
    return values, torch.empty_like(values, dtype=torch.int64)


def _fake_like(src: Tensor, index: Tensor, n: int) -> Tensor:
    check_devices(src, index=index)
    return src.new_empty(src.shape)


_PARTS: dict[str, tuple[Callable[..., Any], ...]] = {
    "sum": (_sum, _fake_groups, _sum_backward, _save_index),
    "mean": (_mean, _fake_groups, _mean_backward, _save_index),
    "mul": (_mul, _fake_groups, _mul_backward, _save_all),
    "max": (_extreme("max"), _fake_pair, _extreme_backward, _save_arg),
    "min": (_extreme("min"), _fake_pair, _extreme_backward, _save_arg),
    "softmax": (_softmax, _fake_like, _softmax_backward, _save_output),
    "logsumexp": (_logsumexp, _fake_groups, _logsumexp_backward, _save_all),
}
for _name, (_reference, _fake, _backward, _setup) in _PARTS.items():
    _full = f"meshsim::scatter_{_name}"
    torch.library.impl(_full, "CompositeExplicitAutograd", _reference)
    torch.library.register_fake(_full, _fake)
    torch.library.register_autograd(_full, _backward, setup_context=_setup)


@torch.library.impl("meshsim::scatter_softmax_backward", "CompositeExplicitAutograd")
def _softmax_backward_reference(grad: Tensor, y: Tensor, index: Tensor, n: int) -> Tensor:
    _check(y, index, n)
    return _softmax_gradient(grad.detach(), y.detach(), index, n)


@torch.library.impl("meshsim::scatter_logsumexp_backward", "CompositeExplicitAutograd")
def _logsumexp_backward_reference(grad: Tensor, src: Tensor, y: Tensor, index: Tensor) -> Tensor:
    _check(src, index, y.shape[1])
    return _logsumexp_gradient(grad.detach(), src.detach(), y.detach(), index)


@torch.library.register_fake("meshsim::scatter_softmax_backward")
def _fake_softmax_backward(grad: Tensor, y: Tensor, index: Tensor, n: int | torch.SymInt) -> Tensor:
    check_devices(y, grad=grad, index=index)
    return y.new_empty(y.shape)


@torch.library.register_fake("meshsim::scatter_logsumexp_backward")
def _fake_logsumexp_backward(grad: Tensor, src: Tensor, y: Tensor, index: Tensor) -> Tensor:
    check_devices(src, grad=grad, y=y, index=index)
    return src.new_empty(src.shape)
