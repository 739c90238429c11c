"""How many OpenMP threads to use: timed, because idle ones spin on a loaded machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn


def available() -> int:
    """Threads this process may use: OMP_NUM_THREADS if set, else its cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def candidates(most: int) -> list[int]:
    """Powers of two up to `most`, and `most` itself.

    >>> candidates(6)
    [1, 2, 4, 6]
    """
    return sorted({most, *(2**k for k in range(most.bit_length()) if 2**k <= most)})


def fastest(
    work: Callable[[], object], counts: Sequence[int] | None = None, repeats: int = 3
) -> int:
    """Time `work` on each number of threads, and leave torch set to the fastest.

    More threads must be a tenth faster to be chosen: they cost other processes more. Two
    threads were ten times slower than one on a machine whose other core was busy.

    Arguments:
        work: something like what is to be done; called `repeats` + 1 times for each count.
        counts: numbers of threads to try, rising; None for powers of two.
        repeats: the median counts.

    Returns:
        The number of threads chosen.
    """
    tried = list(counts or candidates(available()))
    if len(tried) == 1:
        torch.set_num_threads(tried[0])
        return tried[0]
    best, chosen = float("inf"), tried[0]
    for n in tried:
        torch.set_num_threads(n)
        work()
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        took = sorted(seconds)[len(seconds) // 2]
        if took < 0.9 * best:
            best, chosen = took, n
        if took > 3 * best:
            break  # spinning: more threads can only be worse
    torch.set_num_threads(chosen)
    return chosen


def message_block_work(nodes: int = 1000, degree: int = 6, width: int = 64) -> Callable[[], None]:
    """One forward and backward pass of a message block on a random graph."""
    generator = torch.Generator().manual_seed(0)
    receiver = torch.arange(nodes).repeat_interleave(degree)  # (E,)
    sender = torch.randint(nodes, (nodes * degree,), generator=generator)  # (E,)
    edge = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.LayerNorm(width))
    x = torch.randn(nodes, width, generator=generator)

    def work() -> None:
        messages = edge(x[sender] + x[receiver])  # (E, width)
        out = torch.zeros_like(x).index_add(0, receiver, messages)
        edge.zero_grad()
        out.square().mean().backward()

    return work
