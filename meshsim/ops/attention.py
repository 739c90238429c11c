"""csr_attention: each row attends to the columns that a sparse mask lists for it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from meshsim.check import InputError, check_index, check_shape
from meshsim.ops.gradients import again, through
from meshsim.ops.segment import (
    check_devices,
    check_rowptr,
    expand_rowptr,
    segment_max,
    segment_sum,
)
from meshsim.rows import by_group

_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor rowptr, Tensor col, Tensor colptr, Tensor eperm, "
    "Tensor? bias, {}int heads, float scale"
)
_NAMES = ("q", "k", "v", "rowptr", "col", "colptr", "eperm", "bias")
torch.library.define(
    "meshsim::csr_attention",
    f"({_INPUTS.format('')}) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "meshsim::csr_attention_backward",
    f"(Tensor grad_out, Tensor grad_lse, {_INPUTS.format('Tensor lse, ')})"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# Entries by column of a list of columns, dropped with it.
_known = WeakTensorKeyDictionary()


def composed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor,
    eperm: Tensor,
    bias: Tensor | None,
    heads: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention out of torch's own operations: what `csr_attention` must equal."""
    if not torch.compiler.is_exporting():  # there are no values then
        _check(q, k, v, rowptr, col, bias, heads)
    stored, wide = q.dtype, torch.promote_types(q.dtype, torch.float32)
    row = expand_rowptr(rowptr, col.shape[0])  # (E,)

    def split(x: Tensor, index: Tensor) -> Tensor:
        return x.to(wide).index_select(0, index).unflatten(1, (heads, -1))

    s = (split(q, row) * split(k, col)).sum(2) * scale  # (E, heads)
    if bias is not None:
        s = s + bias.to(wide)
    top = segment_max(s.detach(), rowptr, row)[0]  # (N, heads)
    top = torch.where(top.isfinite(), top, 0)
    e = (s - top.index_select(0, row)).exp()
    z = segment_sum(e, rowptr, row)
    nothing = z == 0  # an empty row, or one without a logit above −∞
    z = torch.where(nothing, 1, z)
    y = segment_sum(e[:, :, None] * split(v, col), rowptr, row)  # (N, heads, H / heads)
    out = torch.where(nothing[:, :, None], 0, y / z[:, :, None]).flatten(1)
    return out.to(stored), torch.where(nothing, -torch.inf, top + z.log())


def _check(
    q: Tensor, k: Tensor, v: Tensor, rowptr: Tensor, col: Tensor, bias: Tensor | None, heads: int
) -> None:
    check_shape(q, (None, None), "q")
    width = q.shape[1]
    if q.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        raise InputError(f"`q`: expected float32, float64 or bfloat16, got {q.dtype}")
    if heads < 1 or width % heads or width == 0:
        raise InputError(f"`heads`: expected a number that divides the width {width}, got {heads}")
    check_shape(k, (None, width), "k")
    check_shape(v, (k.shape[0], width), "v")
    check_shape(col, (None,), "col")
    check_rowptr(rowptr, len(col))
    check_shape(rowptr, (q.shape[0] + 1,), "rowptr")
    check_index(col, k.shape[0], "col", "columns")
    if bias is not None:
        check_shape(bias, (len(col), heads), "bias")
    for name, x in (("k", k), ("v", v), ("bias", bias)):
        if x is not None and x.dtype != q.dtype:
            raise InputError(f"`{name}`: expected {q.dtype}, got {x.dtype}")


@torch.library.impl("meshsim::csr_attention", "CompositeExplicitAutograd")
def _reference(*arguments: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return composed(*arguments)


@torch.library.impl("meshsim::csr_attention_backward", "CompositeExplicitAutograd")
def _reference_backward(
    grad_out: Tensor, grad_lse: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *given, _, heads, scale = arguments
    return _gradients(grad_out, grad_lse, (*given, heads, scale), twice=False)


def _gradients(
    grad_out: Tensor, grad_lse: Tensor, arguments: tuple[Any, ...], twice: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    which = [i for i in (0, 1, 2, 7) if arguments[i] is not None]
    found = through(composed, arguments, which, (grad_out, grad_lse), twice)
    d_bias = found[3] if len(found) == 4 else found[0].new_empty(0, arguments[8])
    return found[0], found[1], found[2], d_bias


@torch.library.register_fake("meshsim::csr_attention")
def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    q, heads = arguments[0], arguments[8]
    check_devices(q, **dict(zip(_NAMES, arguments, strict=False)))
    wide = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(q.shape), q.new_empty(q.shape[0], heads, dtype=wide)


@torch.library.register_fake("meshsim::csr_attention_backward")
def _fake_backward(
    grad_out: Tensor, grad_lse: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v = arguments[:3]
    check_devices(q, grad_out=grad_out, **dict(zip(_NAMES, arguments, strict=False)))
    entries = arguments[4].shape[0] if arguments[7] is not None else 0
    d_bias = q.new_empty(entries, arguments[9])
    return q.new_empty(q.shape), q.new_empty(k.shape), q.new_empty(v.shape), d_bias


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:8], output[1])
    ctx.rest = inputs[8:]


def _backward(ctx: Any, grad_out: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:
    *given, lse = ctx.saved_tensors
    if again():
        found = _gradients(grad_out, grad_lse, (*given, *ctx.rest), twice=True)
    else:
        found = torch.ops.meshsim.csr_attention_backward(grad_out, grad_lse, *given, lse, *ctx.rest)
    d_q, d_k, d_v, d_bias = found
    bias = None if given[7] is None else d_bias
    return d_q, d_k, d_v, None, None, None, None, bias, None, None


torch.library.register_autograd("meshsim::csr_attention", _backward, setup_context=_setup)


def csr_attention(
    q: Float[Tensor, "N H"],
    k: Float[Tensor, "M H"],
    v: Float[Tensor, "M H"],
    rowptr: Int[Tensor, " R"],
    col: Int[Tensor, " E"],
    heads: int,
    scale: float | None = None,
    bias: Float[Tensor, "E G"] | None = None,
    columns: tuple[Int[Tensor, " C"], Int[Tensor, " E"]] | None = None,
) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N G"]]:
    """Masked attention: y_i = Σ_j p_ij v_j, p_i = softmax over j in row i of (c q_i·k_j + b_ij).

    Each head by itself (Vaswani et al., NeurIPS 2017, eq. 1) with a sparse mask: only listed pairs
    are computed. The gradient computes p anew from `lse`; no pass adds to one place from two
    threads.

    Arguments:
        q: (N, H) of the rows, heads side by side; rows may lie a stride apart.
        k, v: (M, H) of the columns.
        rowptr, col: (N + 1,), (E,) int64: row i attends to columns `col[rowptr[i]:rowptr[i + 1]]`.
        heads: G; each has depth H / G.
        scale: c; None for 1 / √depth.
        bias: (E, G), added to the logits; −∞ leaves an entry out.
        columns: the mask by column, see `entries_by_column`; None makes it once for each `col`.

    Returns:
        (N, H) values, 0 for an empty row; (N, G) log Σ exp of the logits, −∞ for an empty row.

    Raises:
        InputError: shapes or dtypes that do not fit, an index outside 0..M-1.

    >>> rowptr, col = torch.tensor([0, 2, 2]), torch.tensor([0, 1])
    >>> x = torch.tensor([[1.], [3.]])
    >>> csr_attention(torch.zeros(2, 1), x, x, rowptr, col, 1)[0].T
    tensor([[2., 0.]])
    """
    if scale is None:
        scale = (q.shape[-1] / heads) ** -0.5 if heads > 0 and q.shape[-1] else 1.0
    colptr, eperm = columns or entries_by_column(col, k.shape[0])
    return torch.ops.meshsim.csr_attention(q, k, v, rowptr, col, colptr, eperm, bias, heads, scale)


def entries_by_column(col: Int[Tensor, " E"], n: int) -> tuple[Tensor, Tensor]:
    """Which entries have column j: `eperm[colptr[j]:colptr[j + 1]]`, rising; kept with `col`.

    Arguments:
        col: (E,) int64 in 0..n-1.
        n: number of columns.

    Returns:
        colptr (n + 1,), eperm (E,).

    >>> entries_by_column(torch.tensor([1, 0, 1]), 2)
    (tensor([0, 1, 3]), tensor([1, 0, 2]))
    """
    kept = _known.get(col)
    if kept is not None and kept[:2] == (col._version, n):
        return kept[2]
    check_index(col, n, "col", "columns")
    eperm, colptr = by_group(col, n)
    _known[col] = (col._version, n, (colptr, eperm))
    return colptr, eperm
