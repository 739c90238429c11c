"""A whole anchored model asked at millions of points: time and peak memory, beside plain torch.

Run: python tests/benchmarks/bm_anchored.py [--points 10000000] [--threads 2] [--width 64]
     [--anchors 512] [--device cuda] [--json]

"torch" is the same model by `scaled_dot_product_attention` on chunks of queries, the fastest of
four sizes of chunk. Ratios come from interleaved rounds on `--points` / 50 of the points; time and
peak of all of them from one pass of ours, the points included; on a GPU the peak is its memory's.
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

CHUNKS = (4096, 16384, 65536, 262144)


def model(width: int, anchors: int, device: str) -> tuple[AnchoredTransformer, Latent]:
    """A network over one volume branch, and what it knows of a body."""
    torch.manual_seed(0)
    net = AnchoredTransformer(
        3, 3, {"volume": {"outputs": {"pressure": 1, "velocity": 3}}},
        width=width, heads=width // 32, blocks="psps", own_blocks=2, supernodes=256,
    ).eval().to(device)  # fmt: skip
    with torch.no_grad(), torch.device(device):
        body = Points(torch.rand(1, 2048, 3), torch.randn(1, 2048, 3))
        places = Points(torch.rand(1, anchors, 3), torch.zeros(1, anchors, 0))
        latent = net.encode(body, torch.zeros(1, 0), {"volume": places})
        net.decode(latent, "volume", Points(torch.rand(1, 10, 3), torch.zeros(1, 10, 0)))
    return net, latent


def now(device: str) -> float:
    """Seconds, once all that was asked of the device is done."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


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
    net, latent = model(options.width, options.anchors, options.device)
    pos = torch.rand(max(options.points // 50, CHUNKS[-1]), 3, device=options.device)
    times = {}
    for chunk in CHUNKS:
        plain(net, latent, pos[:chunk], chunk)  # what comes once
        began = now(options.device)
        plain(net, latent, pos[: CHUNKS[-1]], chunk)
        times[chunk] = now(options.device) - began
    best = min(CHUNKS, key=lambda chunk: times[chunk])

    def waited(found: list[Tensor]) -> list[Tensor]:
        now(options.device)
        return found

    calls = {
        f"torch, chunks of {best}": lambda: waited(plain(net, latent, pos, best)),
        "meshsim": lambda: waited(ours(net, latent, pos)),
    }
    exact = [y.double() for y in plain(net, latent, pos, best)]
    yield (
        f"width {options.width}, {options.anchors} anchors, 6 blocks, {len(pos)} points",
        measure(calls, exact, rounds=options.rounds, seconds=options.seconds),
    )


def whole(options: argparse.Namespace) -> Figures:
    """Time of one pass over all points, and the peak of the whole process."""
    net, latent = model(options.width, options.anchors, options.device)
    pos = torch.rand(options.points, 3, device=options.device)
    began = now(options.device)
    fields = ours(net, latent, pos)
    seconds = now(options.device) - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if pos.is_cuda:
        peak = torch.cuda.max_memory_allocated()
    assert all(torch.isfinite(y).all() for y in fields)
    row = {"milliseconds": 1e3 * seconds, "ratio": 1.0, "low": 1.0, "high": 1.0}
    return {"meshsim": {**row, "peak_bytes": peak, "error": 0.0}}


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--points", type=int, default=10_000_000)
    known.add_argument("--width", type=int, default=64)
    known.add_argument("--anchors", type=int, default=512)
    known.add_argument("--device", default="cpu")
    options = parse(known)
    if options.device == "cpu":  # elsewhere it is made of torch's operations
        require(["anchor_blocks"])
    where = "process" if options.device == "cpu" else "GPU's memory"
    # first: the peak is the process's
    first = (f"{options.points:,} points in one pass, peak of the {where}", whole(options))
    report(options, chain([first], cases(options)))


if __name__ == "__main__":
    main()
