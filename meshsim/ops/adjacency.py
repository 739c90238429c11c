"""Adjacency: the sorted tables behind message passing, derived once from an edge list."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from meshsim.check import InputError, check_index
from meshsim.ops.gather import gather_sum, transpose
from meshsim.rows import by_group, starts

# Tables by edge list, dropped with it: copies of a graph that share the edges share the tables.
_known = WeakTensorKeyDictionary()


@dataclass(frozen=True, eq=False)
class Adjacency:
    """Edge tables of a graph whose edges are sorted by receiver.

    Arguments:
        sender, receiver: (E,) int64.
        rowptr: (N + 1,) int64, the edges that node i receives are `rowptr[i]:rowptr[i + 1]`.
        pairs, pair_rowptr: (2E,), (E + 1,): rows 2·sender and 2·receiver + 1 of each edge.
        ends, end_rowptr: (2E,), (2N + 1,): the same by node, its edges as sender, as receiver.
        sent, colptr: (E,), (N + 1,): edges by sender, those of node i `sent[colptr[i]:…]`, rising.
    """

    sender: Tensor
    receiver: Tensor
    rowptr: Tensor
    pairs: Tensor
    pair_rowptr: Tensor
    ends: Tensor
    end_rowptr: Tensor
    sent: Tensor
    colptr: Tensor

    def edge_values(self, x: Float[Tensor, "N W"]) -> Float[Tensor, "E H"]:
        """x_s[sender] + x_r[receiver] on each edge, W = 2H, x = [x_s, x_r].

        Arguments:
            x: (N, 2H), for each node its part as sender and its part as receiver.
        """
        rows = x.reshape(2 * x.shape[0], x.shape[1] // 2)  # (2N, H)
        return gather_sum(rows, self.pairs, self.pair_rowptr, self.ends, self.end_rowptr)

    def node_values(self, e: Float[Tensor, "E H"]) -> Float[Tensor, "N W"]:
        """[Σ e over the edges a node sends, Σ e over those it receives]: edge_values transposed.

        Arguments:
            e: (E, H).

        Returns:
            (N, 2H).
        """
        rows = gather_sum(e, self.ends, self.end_rowptr, self.pairs, self.pair_rowptr)  # (2N, H)
        return rows.reshape(len(self.rowptr) - 1, 2 * e.shape[1])


def adjacency(edge_index: Int[Tensor, "2 E"], n: int) -> Adjacency:
    """The tables of an edge list, kept as long as the edge list itself.

    Arguments:
        edge_index: (2, E) int64, row 0 senders, row 1 receivers, rising.
        n: number of nodes.

    Raises:
        InputError: an index outside 0..n-1, or receivers that do not rise.

    >>> adjacency(torch.tensor([[1, 2, 0], [0, 0, 2]]), 3).rowptr
    tensor([0, 2, 2, 3])
    """
    if torch.compiler.is_exporting():  # no values to check, and nothing to keep
        return _tables(edge_index, n)
    kept = _known.get(edge_index)
    if kept is not None and kept[:2] == (edge_index._version, n):
        return kept[2]
    check_edges(edge_index, n)
    made = _tables(edge_index, n)
    _known[edge_index] = (edge_index._version, n, made)
    return made


def check_edges(edge_index: Int[Tensor, "2 E"], n: int) -> None:
    """Raise `InputError` unless indices are of n nodes and receivers rise; no tables are made."""
    check_index(edge_index.T, n, "edge_index", "nodes")
    receiver = edge_index[1]
    falls = receiver[1:] < receiver[:-1]
    if bool(falls.any()):
        row = int(falls.nonzero()[0]) + 1
        raise InputError(
            f"`edge_index`: expected edges sorted by receiver, got receiver {int(receiver[row])}"
            f" after {int(receiver[row - 1])} at edge {row}"
        )


def _tables(edge_index: Int[Tensor, "2 E"], n: int) -> Adjacency:
    # Views would keep the edge list alive, and with it its own entry.
    sender, receiver = edge_index[0].clone(), edge_index[1].clone()
    rowptr = starts(receiver, n)
    pairs = torch.stack([2 * sender, 2 * receiver + 1], 1).reshape(-1)  # (2E,)
    pair_rowptr = 2 * torch.arange(sender.shape[0] + 1, device=receiver.device)
    ends, end_rowptr = transpose(pairs, pair_rowptr, 2 * n)
    sent, colptr = by_group(sender, n)
    return Adjacency(sender, receiver, rowptr, pairs, pair_rowptr, ends, end_rowptr, sent, colptr)
