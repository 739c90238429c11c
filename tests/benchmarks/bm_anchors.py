"""anchor_blocks, queries through an anchored transformer, against torch's modules, in one process.

Run: python tests/benchmarks/bm_anchors.py [--threads N] [--queries N] [--cases 64x4x512 …] [--json]
Interleaved rounds without gradients; ratios are of the time of a loop of torch's linear maps,
RMSNorm, scaled_dot_product_attention and GELU over as many queries at a time as it likes best
(tried first), in the same round. Errors are against float64 on the first queries, peak is memory
over the inputs. A case's operations are those of its products alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim import ops
from meshsim.ops.anchors import composed
from meshsim.timing import Figures, interleave, measure, require
from tests.benchmarks.report import parse, parser, report

BLOCKS, PARTS, EPS = 6, 2, 1e-6
AT_A_TIME = (1024, 4096, 16384, 65536)
CHECKED = 2000


class Plain(nn.Module):
    """The blocks as modules would have them; keys and values are split once."""

    def __init__(self, given: dict[str, Tensor], heads: int):
        super().__init__()
        self.heads, self.given = heads, given
        sizes = given["ptr"].diff().tolist()
        self.keys, self.values = (
            [
                t.unflatten(1, (heads, -1)).transpose(0, 1).contiguous()
                for t in given[n].split(sizes)
            ]
            for n in ("k", "v")
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        width, turns = x.shape[1], cos.shape[1]
        cos, sin = cos[:, None], sin[:, None]
        blocks = zip(*(self.given[n] for n in ("weight", "bias", "norm")), strict=True)
        for (w, b, norm), k, v in zip(blocks, self.keys, self.values, strict=True):
            q = F.linear(F.rms_norm(x, (width,), norm[0], EPS), w[0], b[0])
            q = q.unflatten(1, (self.heads, -1))
            first, second, rest = q.split([turns, turns, q.shape[2] - 2 * turns], 2)
            q = torch.cat([first * cos - second * sin, first * sin + second * cos, rest], 2)
            y = F.scaled_dot_product_attention(q.transpose(0, 1)[None], k[None], v[None])[0]
            x = x + F.linear(y.transpose(0, 1).flatten(1), w[1], b[1])
            m = F.rms_norm(x, (width,), norm[1], EPS)
            x = x + b[-1]
            for i in range(PARTS):
                gate, up, down = w[2 + 3 * i : 5 + 3 * i]
                g, u = b[2 + 2 * i : 4 + 2 * i]
                x = x + F.linear(F.gelu(F.linear(m, gate, g)) * F.linear(m, up, u), down)
        return x

    def chunks(self, size: int, rows: int) -> tuple[Tensor]:
        """The first rows, some at a time."""
        parts = [self.given[n][:rows].split(size) for n in ("x", "cos", "sin")]
        return (torch.cat([self(*part) for part in zip(*parts, strict=True)]),)


def made(queries: int, width: int, heads: int, anchors: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    angle = random(queries, width // heads // 2)
    return {
        "x": random(queries, width),
        "k": random(BLOCKS * anchors, width),
        "v": random(BLOCKS * anchors, width),
        "ptr": anchors * torch.arange(BLOCKS + 1),
        "weight": random(BLOCKS, 2 + 3 * PARTS, width, width) / width**0.5,
        "bias": 0.1 * random(BLOCKS, 3 + 2 * PARTS, width),
        "norm": 1 + 0.1 * random(BLOCKS, 2, width),
        "cos": angle.cos(),
        "sin": angle.sin(),
    }


def best_size(plain: Plain, queries: int) -> int:
    """How many queries at a time torch is fastest with."""
    rows = min(queries, AT_A_TIME[-1])
    took = interleave({str(n): partial(plain.chunks, n, rows) for n in AT_A_TIME}, rounds=3)
    return int(min(took, key=lambda name: min(took[name])))


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    torch.set_grad_enabled(False)
    for case in options.cases:
        width, heads, anchors = map(int, case.split("x"))
        given = made(options.queries, width, heads, anchors)
        plain = Plain(given, heads)
        size = best_size(plain, options.queries)

        def ours(given: dict[str, Tensor] = given, heads: int = heads) -> tuple[Tensor]:
            return (ops.anchor_blocks(*given.values(), heads, EPS),)

        calls: dict[str, Callable[[], tuple[Tensor]]] = {
            f"torch, {size} at a time": partial(plain.chunks, size, options.queries),
            "meshsim": ours,
        }
        few = {n: t[:CHECKED] if n in ("x", "cos", "sin") else t for n, t in given.items()}
        wide = [t.double() if t.is_floating_point() else t for t in few.values()]
        each = 4 * anchors * width + 2 * (2 + 3 * PARTS) * width**2
        work = options.queries * BLOCKS * each / 1e9
        yield (
            f"{options.queries} queries, width {width}, {heads} heads, {anchors} anchors in each of"
            f" {BLOCKS} blocks, {work:.0f} billion operations",
            measure(
                calls,
                [composed(*wide, heads, EPS)],
                rounds=options.rounds,
                seconds=options.seconds,
                take=lambda _, y: [y[0][:CHECKED]],
            ),
        )


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--queries", type=int, default=200_000)
    known.add_argument(
        "--cases",
        nargs="*",
        default=["64x4x256", "64x4x512", "128x8x512", "192x3x512"],
        help="width x heads x anchors of a block",
    )
    options = parse(known)
    require(["anchor_blocks"])
    report(options, cases(options))


if __name__ == "__main__":
    main()
