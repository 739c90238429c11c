"""The tests of operators on a GPU: their CUDA kernels under the name of those for the CPU.

`MESHSIM_ON_CUDA=1 pytest tests/ops` takes every operator's arguments to the GPU, views and offsets
as they are, and its results back, so that each test is one of the CUDA kernels. Tests that expect
an error for an index or a rowptr fail there, since a GPU's host does not read them: what holds
instead is in `tests/ops/test_unread.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from meshsim import native

_library = torch.library.Library("meshsim", "IMPL")


def load() -> None:
    """Put every CUDA kernel in the place of the CPU's, compiling them first if need be."""
    os.environ["MESHSIM_NATIVE"] = "0"  # no kernels for the CPU, also in processes tests start
    path = native.find_cuda()
    import meshsim.ops  # noqa: F401  the schemas

    torch.ops.load_library(path)
    for name in native.defined():
        if native.has_kernel(name, "CUDA"):
            _library.impl(name, taken(name), "CPU")


def taken(name: str) -> Callable[..., Any]:
    """The operator on arguments that are taken to the GPU and back."""
    op = getattr(torch.ops.meshsim, name).default
    written = [
        i
        for i, argument in enumerate(op._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]

    def call(*arguments: Any) -> Any:
        with torch.no_grad():
            there = tree_map(to_gpu, arguments)
            out = op(*there)
            for i in written:
                arguments[i].copy_(there[i])
            return tree_map(to_cpu, out)

    return call


def to_gpu(x: Any) -> Any:
    """A tensor's storage on the GPU, seen as it was: strides and offset are part of a test."""
    if not isinstance(x, Tensor) or x.device.type != "cpu":
        return x
    storage = x.detach().untyped_storage().cuda()
    like = torch.empty(0, dtype=x.dtype, device="cuda")
    return like.set_(storage, x.storage_offset(), x.shape, x.stride())


def to_cpu(x: Any) -> Any:
    return x.cpu() if isinstance(x, Tensor) else x
