"""Which operators run compiled code here, which run their torch reference, and why."""

from __future__ import annotations

import os

import torch

# Every operator of namespace `meshsim`; `meshsim.ops` defines them.
OPS = (
    "gather_sum",
    "segment_sum",
    "segment_mean",
    "segment_max",
    "segment_min",
    "segment_softmax",
    "segment_logsumexp",
)


def allowed() -> bool:
    """False if the environment switches compiled operators off with MESHSIM_NATIVE=0."""
    return os.environ.get("MESHSIM_NATIVE", "1") != "0"


def has_kernel(op: str, device: str) -> bool:
    """Ask torch's dispatcher whether an operator has a compiled kernel for "CPU" or "CUDA"."""
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"meshsim::{op}", device)
    except RuntimeError:  # the operator is not defined before `meshsim.ops` is imported
        return False


def active() -> dict[str, dict[str, str]]:
    """Say for each operator what runs: "native" or "reference", and why.

    Returns:
        {operator: {"cpu": …, "cuda": …, "why": one sentence}}.

    >>> active()["segment_sum"]["cpu"]
    'reference'
    """
    out = {}
    for op in OPS:
        cpu, cuda = has_kernel(op, "CPU"), has_kernel(op, "CUDA")
        if cpu or cuda:
            why = "compiled kernel loaded"
        elif not allowed():
            why = "switched off by MESHSIM_NATIVE=0"
        else:
            why = "this version has no compiled kernels; the torch reference runs"
        out[op] = {
            "cpu": "native" if cpu else "reference",
            "cuda": "native" if cuda else "reference",
            "why": why,
        }
    return out
