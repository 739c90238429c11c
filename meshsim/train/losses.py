"""Errors that are trained on: normalised, on the nodes that are predicted, graph by graph."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import check_known

KINDS = ("mse", "l1", "relative_l2")


def node_weights(
    free: Float[Tensor, " N"],
    batch: Int[Tensor, " N"],
    graphs: int,
    measure: Float[Tensor, " N"] | None = None,
    power: float = 0.0,
) -> Float[Tensor, "N 1"]:
    """Weights of the nodes: 1/B in each graph together, in proportion to measure^power.

    Arguments:
        free: (N,) 1 where the field is predicted, else 0.
        batch: (N,) graph of each node.
        graphs: B.
        measure: (N,) each node's share of length, area or volume.
        power: 0 counts nodes, 1 integrates over space.

    >>> node_weights(torch.tensor([1., 1., 0., 1.]), torch.tensor([0, 0, 0, 1]), 2)[:, 0]
    tensor([0.2500, 0.2500, 0.0000, 0.5000])
    """
    weights = free if measure is None or power == 0 else free * measure.clamp_min(0).pow(power)
    total = torch.zeros(graphs, dtype=weights.dtype, device=weights.device)
    total.index_add_(0, batch, weights)
    return (weights / (graphs * total.clamp_min(torch.finfo(weights.dtype).tiny))[batch])[:, None]


def loss(
    kind: str,
    prediction: Float[Tensor, "*M N c"],
    truth: Float[Tensor, "*M N c"],
    scale: Float[Tensor, "..."],
    weights: Float[Tensor, "N 1"],
    batch: Int[Tensor, " N"],
    graphs: int,
) -> Float[Tensor, ""]:
    """Error of one field, averaged over graphs, components and, if there are several, frames.

    Arguments:
        kind: "mse" Σ w e², "l1" Σ w |e|, or "relative_l2" √(Σ w e² / Σ w t²) for each graph.
        prediction, truth: (N, c) or (M, N, c), in the field's unit.
        scale: (c,) or (M, 1, c), e = (prediction − truth) / scale.
        weights: (N, 1) of `node_weights`.
        batch: (N,) graph of each node.
        graphs: B.
    """
    check_known(kind, KINDS, "loss")
    error = (prediction - truth) / scale  # (*M, N, c)
    if kind == "mse":
        return (weights * error.square()).sum(-2).mean()
    if kind == "l1":
        return (weights * error.abs()).sum(-2).mean()
    squares = torch.stack([error.square().sum(-1), (truth / scale).square().sum(-1)], -1)
    squares = (weights * squares).reshape(-1, len(weights), 2)  # (M, N, 2)
    sums = torch.zeros(len(squares), graphs, 2, dtype=error.dtype, device=error.device)
    sums = sums.index_add(1, batch, squares)  # (M, B, 2)
    tiny = torch.finfo(error.dtype).tiny
    return (sums[..., 0].clamp_min(tiny) / sums[..., 1].clamp_min(tiny)).sqrt().mean()
