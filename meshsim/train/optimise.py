"""Optimisers, the learning rate over a run, and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshsim.train.config import TrainConfig

if TYPE_CHECKING:
    from meshsim.train.shard import Shards


def orthogonalise(g: Float[Tensor, "K a b"], steps: int = 5) -> Float[Tensor, "K a b"]:
    """Matrices near the orthogonal factor of each, by Newton-Schulz steps of fifth order.

    X ← a X + (b A + c A²) X with A = X Xᵀ; singular values end between 0.7 and 1.2
    (Jordan et al. 2024, "Muon: an optimizer for hidden layers", coefficients there).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT  # (K, a, a)
        squared = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b A + c A²
        x = torch.baddbmm(x, squared, x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for matrices inside a network.

    Matrices of one shape are handled together; a step is scaled by 0.2 √max(a, b), which gives
    it the size of a step of AdamW (Liu et al. 2025, "Muon is scalable", eq. 4).

    Arguments:
        params: 2-D parameters.
        lr: rate.
        momentum: decay of the Nesterov momentum.
        weight_decay: decoupled, times `lr`.
        shards: of which the parameters are rows; each process then handles the whole matrices.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        shards: Shards | None = None,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.shards = shards

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shape = p.shape if self.shards is None else self.shards.shape(p)
                    shapes.setdefault(shape, []).append(p)
            for shape, members in shapes.items():
                self._update(group, shape, members)

    def _update(self, group: dict[str, Any], shape: torch.Size, members: list[Tensor]) -> None:
        grads = [p.grad for p in members if p.grad is not None]
        for p in members:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum"] for p in members]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(grads, buffers, group["momentum"])
        if self.shards is not None:
            pairs = zip(members, nesterov, strict=True)
            nesterov = tuple(self.shards.whole(p, rows) for p, rows in pairs)
        updates = orthogonalise(torch.stack(nesterov)).unbind()  # K of (a, b)
        if self.shards is not None:
            updates = tuple(self.shards.own(p, u) for p, u in zip(members, updates, strict=True))
        torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
        scale = 0.2 * math.sqrt(max(shape))
        torch._foreach_add_(members, updates, alpha=-group["lr"] * scale)


class Lion(torch.optim.Optimizer):
    """Signs of an interpolated momentum: w ← w − lr (sign(β₁ m + (1 − β₁) g) + λ w), then
    m ← β₂ m + (1 − β₂) g (Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS
    2023, algorithm 2). Its rate is three to ten times smaller than AdamW's.

    Arguments:
        params: parameters.
        lr: rate.
        betas: β₁, β₂.
        weight_decay: λ.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            members = [p for p in group["params"] if p.grad is not None]
            for p in members:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            if not members:
                continue
            grads = [p.grad for p in members]
            held = [self.state[p]["momentum"] for p in members]
            update = torch._foreach_lerp(held, grads, 1 - group["betas"][0])
            torch._foreach_sign_(update)
            torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(members, update, alpha=-group["lr"])
            torch._foreach_lerp_(held, grads, 1 - group["betas"][1])


def optimisers(
    model: nn.Module, train: TrainConfig, shards: Shards | None = None
) -> list[torch.optim.Optimizer]:
    """The optimisers of a model's weights, or of its shards; their rates are the peak rates.

    With "muon" the matrices of the message blocks (`model.blocks` if there is such a part, else
    every matrix with both sides of 16 or more) go to Muon.
    """
    least, within = (16, "") if getattr(model, "blocks", None) is None else (2, "blocks.")
    held = dict(model.named_parameters()) if shards is None else shards.held
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        square = p.dim() == 2 and min(p.shape) >= least and name.startswith(within)
        (matrices if square and train.optimiser == "muon" else rest).append(held[name])
    out: list[torch.optim.Optimizer] = []
    if rest:
        fused = all(p.device.type in ("cpu", "cuda") for p in rest)
        betas = (train.beta1, train.beta2)
        decay = train.weight_decay
        if train.optimiser == "lion":
            return [Lion(rest, train.lr, betas, weight_decay=decay)]
        out.append(torch.optim.AdamW(rest, train.lr, betas, weight_decay=decay, fused=fused))
    if matrices:
        out.append(Muon(matrices, train.muon_lr, weight_decay=train.weight_decay, shards=shards))
    return out


def rate_factor(train: TrainConfig, step: int, share: float) -> float:
    """What the peak rates are multiplied by.

    Arguments:
        train: `warmup`, `schedule` and `lr_end`.
        step: from 0; rates rise linearly over the first `warmup` steps.
        share: of the run's work that is done.

    >>> rate_factor(TrainConfig(steps=10, warmup=0), 5, 0.5)
    0.5
    """
    warm = min(1.0, (step + 1) / train.warmup) if train.warmup else 1.0
    shape = {
        "cosine": 0.5 * (1 + math.cos(math.pi * share)),
        "linear": 1 - share,
        "constant": 1.0,
    }[train.schedule]
    return max(warm * shape, train.lr_end)


@torch.no_grad()
def average(mean: Sequence[Tensor], weights: Sequence[Tensor], decay: float, step: int) -> None:
    """Move averaged weights towards the weights: m ← d m + (1 − d) w.

    d rises from 0.1 to `decay` as (1 + step) / (10 + step), so that the start is soon forgotten.
    """
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(mean), list(weights), 1 - d)
