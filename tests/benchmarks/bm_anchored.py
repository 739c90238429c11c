"""A whole anchored model asked at millions of points: time and peak memory, beside plain torch.

Run: python tests/benchmarks/bm_anchored.py [--points 10000000] [--threads 2] [--width 64]
     [--anchors 512] [--json]

"torch" is the same model by `scaled_dot_product_attention` on chunks of queries, the fastest of
three sizes of chunk. Ratios come from interleaved rounds on `--points` / 50 of the points; time and
peak of all of them from one pass of ours, the points included.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from meshsim.models.anchored import AnchoredTransformer, Latent
from meshsim.models.field import Points
from meshsim.timing import Figures, measure, require
from tests.benchmarks.report import parse, parser, report

CHUNKS = (4096, 16384, 65536)


def model(width: int, anchors: int) -> tuple[AnchoredTransformer, Latent]:
    """A network over one volume branch, and what it knows of a body."""
    torch.manual_seed(0)
    net = AnchoredTransformer(
        3, 3, {"volume": {"outputs": {"pressure": 1, "velocity": 3}}},
        width=width, heads=width // 32, blocks="psps", own_blocks=2, supernodes=256,
    ).eval()  # fmt: skip
    with torch.no_grad():
        body = Points(torch.rand(1, 2048, 3), torch.randn(1, 2048, 3))
        places = Points(torch.rand(1, anchors, 3), torch.zeros(1, anchors, 0))
        latent = net.encode(body, torch.zeros(1, 0), {"volume": places})
        net.decode(latent, "volume", Points(torch.rand(1, 10, 3), torch.zeros(1, 10, 0)))
    return net, latent


@torch.no_grad()
def plain(net: AnchoredTransformer, latent: Latent, pos: Tensor, chunk: int) -> list[Tensor]:
    """The obvious way: all blocks, a chunk at a time."""
    found = []
    for part in pos.split(chunk):
        points = Points(part[None], part.new_zeros(1, len(part), 0))
        found.append(net._split("volume", net._direct(latent, "volume", points)))
    return [torch.cat([f[name][0] for f in found]) for name in found[0]]


@torch.no_grad()
def ours(net: AnchoredTransformer, latent: Latent, pos: Tensor) -> list[Tensor]:
    """`decode` as it is."""
    fields = net.decode(latent, "volume", Points(pos[None], pos.new_zeros(1, len(pos), 0)))
    return [y[0] for y in fields.values()]


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    net, latent = model(options.width, options.anchors)
    pos = torch.rand(max(options.points // 50, CHUNKS[-1]), 3)
    times = {}
    for chunk in CHUNKS:
        began = time.perf_counter()
        plain(net, latent, pos[: CHUNKS[-1]], chunk)
        times[chunk] = time.perf_counter() - began
    best = min(CHUNKS, key=lambda chunk: times[chunk])
    calls = {
        f"torch, chunks of {best}": lambda: plain(net, latent, pos, best),
        "meshsim": lambda: ours(net, latent, pos),
    }
    exact = [y.double() for y in plain(net, latent, pos, best)]
    yield (
        f"width {options.width}, {options.anchors} anchors, 6 blocks, {len(pos)} points",
        measure(calls, exact, rounds=options.rounds, seconds=options.seconds),
    )


def whole(options: argparse.Namespace) -> Figures:
    """Time of one pass over all points, and the peak of the whole process."""
    net, latent = model(options.width, options.anchors)
    pos = torch.rand(options.points, 3)
    began = time.perf_counter()
    fields = ours(net, latent, pos)
    seconds = time.perf_counter() - began
    assert all(torch.isfinite(y).all() for y in fields)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {"milliseconds": 1e3 * seconds, "ratio": 1.0, "low": 1.0, "high": 1.0}
    return {"meshsim": {**row, "peak_bytes": peak, "error": 0.0}}


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--points", type=int, default=10_000_000)
    known.add_argument("--width", type=int, default=64)
    known.add_argument("--anchors", type=int, default=512)
    options = parse(known)
    require(["anchor_blocks"])
    # first: the peak is the process's
    first = (f"{options.points:,} points in one pass, peak of the process", whole(options))
    report(options, chain([first], cases(options)))


if __name__ == "__main__":
    main()
