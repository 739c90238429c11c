"""token_block, all that a transformer block does on nodes, against torch's modules, in one process.

Run: python tests/benchmarks/bm_tokens.py [--threads N] [--nodes 2000 30000] [--compile] [--json]
Interleaved rounds; ratios are of the time of torch's linear maps, RMSNorm and GELU with the same
parameters in the same round, errors against the same in float64; peak is memory over the inputs.
bfloat16 is measured where there is AMX: elsewhere torch's is slow, and ours is float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim import native, ops
from meshsim.nn import RMSNorm
from meshsim.nn.attention import TransformerBlock, _token_weights, rotation
from meshsim.timing import Figures, measure, require
from tests.benchmarks.report import MODES, parse, parser, report

HEADS = 4
Block = Callable[..., tuple[Tensor, ...]]


class Plain(nn.Module):
    """The part of a block behind its attention, and the next one's q, k and v."""

    def __init__(self, block: TransformerBlock, after: TransformerBlock):
        super().__init__()
        self.block, self.after = block, after

    def forward(self, x: Tensor, y: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        x = x + self.block.attention.out(y)
        x = x + self.block.mlp(_norm(self.block.before_mlp, x))
        m = _norm(self.after.before_attention, x)
        return x, *self.after.attention.project(m, (cos, sin))

    def used(self) -> list[nn.Parameter]:
        """The weights that take part."""
        block, after = self.block, self.after
        parts = [block.attention.out, block.mlp, block.before_mlp, after.before_attention]
        return [p for part in [*parts, after.attention.qkv] for p in part.parameters()]


def _norm(norm: RMSNorm, x: Tensor) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.eps)


def variants(plain: Plain, compiled: bool) -> dict[str, Block]:
    """The calls by name, torch first."""

    def ours(
        x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, bf16: bool = False
    ) -> tuple[Tensor, ...]:
        eps = plain.block.before_mlp.eps
        weights = _token_weights(plain.block, plain.after)  # packed anew at every call of a network
        return ops.token_block(x, y, *weights, cos, sin, HEADS, True, eps, bf16)

    def autocast(*inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            return plain(*inputs)

    out: dict[str, Block] = {"torch": plain, "meshsim": ours}
    if compiled:
        out["torch.compile"] = torch.compile(plain, dynamic=False)
    if native.isa() == "amx":
        out |= {"torch autocast": autocast, "meshsim bf16 products": partial(ours, bf16=True)}
    return out


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    torch.manual_seed(0)
    plain = Plain(*(TransformerBlock(options.width, HEADS) for _ in range(2)))
    calls = variants(plain, options.compile)
    for nodes in options.nodes:
        given = [
            *torch.randn(2, nodes, options.width),
            *rotation(30 * torch.rand(nodes, 3), options.width // HEADS),
        ]

        def forward(run: Block, x: list[Tensor] = given) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return run(*x)

        def both(run: Block, x: list[Tensor] = given) -> tuple[Tensor, ...]:
            leaves = [t.detach().requires_grad_() for t in x[:2]]
            y = run(*leaves, *x[2:])
            return torch.autograd.grad(y, [*leaves, *plain.used()], [t.detach() for t in y])

        for mode, call in zip(MODES, (forward, both), strict=True):
            plain.double()
            exact = call(plain, [t.double() for t in given])
            plain.float()
            bound = {name: partial(call, run) for name, run in calls.items()}
            yield (
                f"{nodes} nodes, width {options.width}, {mode}",
                measure(bound, exact, rounds=options.rounds, seconds=options.seconds),
            )


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--nodes", type=int, nargs="*", default=[2_000, 30_000])
    known.add_argument("--width", type=int, default=128)
    known.add_argument("--compile", action="store_true", help="torch.compile too (slow to start)")
    options = parse(known)
    require(["token_block", "token_block_backward"])
    report(options, cases(options))


if __name__ == "__main__":
    main()
