"""Rows of numbers: which are equal, which belong to the same group, where ragged ones lie."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def equal_rows(rows: Int[Tensor, "n k"], n: int) -> tuple[Int[Tensor, " n"], Tensor]:
    """Sort rows of numbers 0..n-1 so that equal ones are together.

    Returns:
        order (m,): row numbers; rising among equal rows. first (m,) bool: in that order, where a
        new row begins.

    >>> equal_rows(torch.tensor([[1, 2], [0, 1], [1, 2]]), 3)
    (tensor([1, 0, 2]), tensor([ True,  True, False]))
    """
    k = rows.shape[1]
    bits = max(n - 1, 1).bit_length()
    exact = k * bits <= 63
    key = rows[:, 0].clone()
    for column in rows.unbind(1)[1:]:
        # Odd multiplier modulo 2^64 (Knuth): equal keys of different rows are next to impossible,
        # and noticed below.
        key = (
            (key << bits) | column
            if exact
            else (key * -7046029254386353131) ^ (column + (key >> 29))
        )
    key, order = key.sort(stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    if not exact:
        again = rows[order]
        differ = (again[1:] != again[:-1]).any(1)
        if bool((differ & ~first[1:]).any()):
            order = torch.arange(len(rows), device=rows.device)
            for column in reversed(rows.unbind(1)):
                order = order[column[order].sort(stable=True).indices]
            again = rows[order]
            first[1:] = (again[1:] != again[:-1]).any(1)
    return order, first


def starts(index: Int[Tensor, " E"], n: int) -> Int[Tensor, " R"]:
    """Where each of `n` groups begins among rows sorted by group: rows `ptr[i]:ptr[i + 1]`.

    Arguments:
        index: (E,) int64 in 0..n-1, rising: the group of each row.

    Returns:
        (n + 1,) int64, rising from 0 to E.

    >>> starts(torch.tensor([0, 2, 2]), 3)
    tensor([0, 1, 1, 3])
    """
    return torch.searchsorted(index, torch.arange(n + 1, device=index.device))


def by_group(index: Int[Tensor, " E"], n: int) -> tuple[Int[Tensor, " E"], Int[Tensor, " R"]]:
    """Which rows belong to each of `n` groups: `order[ptr[i]:ptr[i + 1]]`, rising.

    Arguments:
        index: (E,) int64 in 0..n-1, the group of each row.

    Returns:
        order (E,) int64, ptr (n + 1,) int64.

    >>> by_group(torch.tensor([1, 0, 1]), 2)
    (tensor([1, 0, 2]), tensor([0, 1, 3]))
    """
    ordered, order = index.sort(stable=True)
    return order, starts(ordered, n)


def slices(
    offsets: Int[Tensor, " R"], ids: Int[Tensor, " n"]
) -> tuple[Int[Tensor, " m"], Int[Tensor, " S"]]:
    """Where the values of some rows of a ragged array lie.

    Arguments:
        offsets: (rows + 1,) row r has the values offsets[r] … offsets[r + 1].
        ids: (n,) the rows, in any order.

    Returns:
        (m,) places of their values, one row after another, and their own offsets (n + 1,).

    >>> slices(torch.tensor([0, 2, 5]), torch.tensor([1, 0]))
    (tensor([2, 3, 4, 0, 1]), tensor([0, 3, 5]))
    """
    sizes = offsets.diff()[ids]
    ends = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    shift = torch.repeat_interleave(offsets[:-1][ids] - ends[:-1], sizes)
    return shift + torch.arange(len(shift), device=shift.device), ends
