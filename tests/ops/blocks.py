"""Cases that the tests of the edge and the node block share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from meshsim import native
from meshsim.ops.adjacency import Adjacency, adjacency

Tensors = dict[str, Tensor]
SLOWER = 20 if os.environ.get("MESHSIM_EMULATED") else 1  # emulated kernels take fewer rows


def needs_native(op: str) -> None:
    """Skip where there is no compiler; fail where there should be a kernel and is none."""
    entry = native.active()[op]
    if entry["cpu"] == "native":
        return
    if "no C++ compiler" in entry["why"] or "MESHSIM_NATIVE=0" in entry["why"]:
        pytest.skip(entry["why"])
    pytest.fail(f"{op}: {entry['why']}")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights(count: int, layers: int, width: int) -> Tensors:
    norm = torch.stack([1 + 0.1 * random(width, seed=1), 0.1 * random(width, seed=2)])
    return {
        "weight": random(count, width, width, seed=3) / width**0.5,
        "bias": 0.1 * random(layers, width, seed=4),
        "norm": norm,
    }


def tables(nodes: int, edges: int, seed: int = 0) -> Adjacency:
    """A random graph whose last node receives nothing."""
    generator = torch.Generator().manual_seed(seed)
    receiver = torch.randint(0, max(nodes - 1, 1), (edges,), generator=generator).sort().values
    sender = torch.randint(0, max(nodes, 1), (edges,), generator=generator)
    return adjacency(torch.stack([sender, receiver]), nodes)


def forward_backward(
    block: Callable[[Tensors], tuple[Tensor, ...]], inputs: Tensors, grads: list[Tensor]
) -> list[Tensor]:
    """Results and gradients of all inputs."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    out = block(leaves)[: len(grads)]
    wanted = [g.to(y.dtype) for g, y in zip(grads, out, strict=True)]
    found = torch.autograd.grad(out, list(leaves.values()), wanted)
    return [*(y.detach() for y in out), *found]


def relative(a: Tensor, b: Tensor) -> float:
    """|a − b| / |b| in float64."""
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-300))


def on_threads(run: Callable[[], list[Tensor]]) -> Iterator[list[Tensor]]:
    """Results on one, two and three threads, twice each."""
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 1, 2, 3):
            torch.set_num_threads(threads)
            yield run()
    finally:
        torch.set_num_threads(before)


def needs_own_kernels() -> None:
    """Skip what starts another process where tests run on kernels that such a one has not."""
    if os.environ.get("MESHSIM_EMULATED") or os.environ.get("MESHSIM_ON_CUDA"):
        pytest.skip("another process would run other kernels")


def in_another_process(code: str, **environment: str) -> str:
    """What a fresh interpreter prints, with compiled operators unless it is told otherwise."""
    needs_own_kernels()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MESHSIM_NATIVE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
