"""Eigenvectors of the graph Laplacian: positions that depend on how nodes are joined alone."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError

_DENSE = 400  # nodes up to which all eigenvectors are computed
_known: OrderedDict[tuple[Any, ...], np.ndarray] = OrderedDict()
_KEPT = 256  # graphs


def laplacian_vectors(
    edge_index: Int[Tensor, "2 E"], ptr: Int[Tensor, " B"], count: int
) -> Float[Tensor, "N K"]:
    """The smoothest eigenvectors of each graph's Laplacian but the first, times √n.

    L = I − D^(−½) A D^(−½), eigenvalues rising (Dwivedi and Bresson, arXiv:2012.09699, §2.3). The
    sign is the one with Σ v³ ≥ 0; where eigenvalues coincide, or Σ v³ = 0, on symmetric graphs,
    the choice is arbitrary. Graphs met before are not computed again.

    Arguments:
        edge_index: (2, E) int64, rising by receiver.
        ptr: (B + 1,) int64: graph g has the nodes ptr[g]:ptr[g + 1].
        count: K.

    Returns:
        (N, K) float64, zeros where a graph has fewer.

    >>> line = torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]])
    >>> laplacian_vectors(line, torch.tensor([0, 3]), 1).abs().round(decimals=3).T
    tensor([[1.2250, 0.0000, 1.2250]], dtype=torch.float64)
    """
    if count < 0:
        raise InputError(f"`count`: expected 0 or more, got {count}")
    ends, first = edge_index.cpu().numpy(), ptr.cpu().numpy()
    edges = np.searchsorted(ends[1], first)
    out = np.zeros((int(first[-1]), count))
    for g in range(len(first) - 1):
        own = np.ascontiguousarray(ends[:, edges[g] : edges[g + 1]] - first[g])
        n = int(first[g + 1] - first[g])
        key = (hashlib.blake2b(own.tobytes(), digest_size=16).digest(), n, count)
        if key not in _known:
            _known[key] = _vectors(own, n, count)
        _known.move_to_end(key)
        out[first[g] : first[g + 1]] = _known[key]
        while len(_known) > _KEPT:
            _known.popitem(last=False)
    return torch.from_numpy(out).to(edge_index.device)


def _vectors(ends: np.ndarray, n: int, count: int) -> np.ndarray:
    from scipy.sparse import csr_array, diags_array, eye_array
    from scipy.sparse.linalg import eigsh

    out = np.zeros((n, count))
    if n < 2 or count == 0:
        return out
    apart = ends[0] != ends[1]
    row, col = np.divmod(np.unique(ends[1, apart] * n + ends[0, apart]), n)
    joined = csr_array((np.ones(len(row)), (row, col)), shape=(n, n))
    joined = joined.maximum(joined.T)
    degree = np.asarray(joined.sum(1)).ravel()
    scale = diags_array(np.where(degree > 0, degree, 1.0) ** -0.5)
    laplacian = eye_array(n) - scale @ joined @ scale
    if n <= max(_DENSE, 4 * count):
        _, v = np.linalg.eigh(laplacian.toarray())
    else:
        start = np.random.default_rng(0).standard_normal(n)
        values, v = eigsh(laplacian.tocsc(), count + 1, sigma=-0.01, v0=start)
        v = v[:, np.argsort(values)]
    v = v[:, 1 : count + 1]
    out[:, : v.shape[1]] = v * np.where((v**3).sum(0) < 0, -1.0, 1.0) * n**0.5
    return out
