"""gather_sum: sums of rows picked by index, whose gradient is again such a sum."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from meshsim.ops.segment import check_devices, check_rowptr, expand_rowptr
from meshsim.rows import by_group

torch.library.define(
    "meshsim::gather_sum",
    "(Tensor x, Tensor indices, Tensor rowptr, Tensor t_indices, Tensor t_rowptr) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl("meshsim::gather_sum", "CompositeExplicitAutograd")
def _reference(
    x: Tensor, indices: Tensor, rowptr: Tensor, t_indices: Tensor, t_rowptr: Tensor
) -> Tensor:
    check_rowptr(rowptr, indices.shape[0])
    if x.shape[1] == 0:  # embedding_bag wants columns
        return x.new_zeros(rowptr.shape[0] - 1, 0)
    rows = x.detach().contiguous()
    return embedding_bag(indices, rows, rowptr, mode="sum", include_last_offset=True)


@torch.library.register_fake("meshsim::gather_sum")
def _fake(
    x: Tensor, indices: Tensor, rowptr: Tensor, t_indices: Tensor, t_rowptr: Tensor
) -> Tensor:
    check_devices(x, indices=indices, rowptr=rowptr, t_indices=t_indices, t_rowptr=t_rowptr)
    return x.new_empty(rowptr.shape[0] - 1, x.shape[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    indices, rowptr, t_indices, t_rowptr = ctx.saved_tensors
    back = torch.ops.meshsim.gather_sum(grad, t_indices, t_rowptr, indices, rowptr)
    return back, None, None, None, None


torch.library.register_autograd("meshsim::gather_sum", _backward, setup_context=_setup)


def gather_sum(
    x: Float[Tensor, "N C"],
    indices: Int[Tensor, " K"],
    rowptr: Int[Tensor, " R"],
    t_indices: Int[Tensor, " K"],
    t_rowptr: Int[Tensor, " S"],
) -> Float[Tensor, "M C"]:
    """Sums of picked rows: y_i = Σ_{rowptr_i ≤ k < rowptr_{i+1}} x[indices_k].

    It is A x with a sparse matrix A of counts. Its gradient is Aᵀ: the same sum, over the
    transposed lists, so that neither pass adds to one place from two threads.

    Arguments:
        x: (N, C) float.
        indices, rowptr: (K,), (M + 1,) int64: A by rows.
        t_indices, t_rowptr: (K,), (N + 1,) int64: A by columns; see `transpose`.

    >>> indices, rowptr = torch.tensor([0, 1, 1]), torch.tensor([0, 2, 3])
    >>> x = torch.tensor([[1.], [10.]])
    >>> gather_sum(x, indices, rowptr, *transpose(indices, rowptr, 2))
    tensor([[11.], [10.]])
    """
    return torch.ops.meshsim.gather_sum(x, indices, rowptr, t_indices, t_rowptr)


def transpose(
    indices: Int[Tensor, " K"], rowptr: Int[Tensor, " R"], n: int
) -> tuple[Int[Tensor, " K"], Int[Tensor, " S"]]:
    """The same pairs by the other end: for each of the `n` columns its rows, rising.

    >>> transpose(torch.tensor([0, 1, 1]), torch.tensor([0, 2, 3]), 2)
    (tensor([0, 0, 1]), tensor([0, 1, 3]))
    """
    rows = expand_rowptr(rowptr, indices.shape[0])
    order, t_rowptr = by_group(indices, n)
    return rows[order], t_rowptr
