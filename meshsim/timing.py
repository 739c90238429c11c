"""Calls timed side by side: interleaved rounds, ratios with their range, memory, what is compiled.

Ratios of calls taken in turn in one process survive a machine that others use too; times do not.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meshsim import native
from meshsim.check import WorkError

Call = Callable[[], Any]
Figures = dict[str, dict[str, float]]
STATM = Path("/proc/self/statm")


def require(ops: Sequence[str], variant: str = "native") -> None:
    """Check that operators run as asked for: a figure of something else is worse than none.

    Arguments:
        ops: names of operators.
        variant: "native" or "reference".

    Raises:
        WorkError: one of them runs otherwise; says which and why.
    """
    active = native.active()
    for op in ops:
        if active[op]["cpu"] != variant:
            raise WorkError(
                f"{op}: expected the {variant} variant, got {active[op]['cpu']}"
                f" ({active[op]['why']})"
            )


def interleave(
    calls: Mapping[str, Call], rounds: int = 7, seconds: float = float("inf")
) -> dict[str, list[float]]:
    """Seconds that each call takes, one of each in every round; a first round warms up.

    Arguments:
        calls: by name.
        rounds: how many at most.
        seconds: no new round after so long, but three at least.

    >>> [len(t) for t in interleave({"a": lambda: 0, "b": lambda: 1}, rounds=5).values()]
    [5, 5]
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for i in range(rounds + 1):
        if i > 3 and time.perf_counter() - began > seconds:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if i:
                took[name].append(time.perf_counter() - start)
    return took


def against(took: Mapping[str, list[float]], base: str, over: bool = False) -> Figures:
    """How many times as fast as `base` each call is: medians over rounds, with their range.

    Arguments:
        took: of `interleave`.
        base: a name in it.
        over: the other way round, how many times as long as `base` each call takes.

    Returns:
        {name: {"ratio", "low", "high", "milliseconds"}}.

    >>> took = {"a": [4.0, 4.0, 6.0], "b": [1.0, 2.0, 2.0]}
    >>> against(took, "a")["b"]["ratio"], against(took, "b", over=True)["a"]["ratio"]
    (3.0, 3.0)
    """
    out = {}
    for name, own in took.items():
        pairs = zip(own, took[base], strict=True) if over else zip(took[base], own, strict=True)
        ratios = sorted(above / max(below, 1e-9) for above, below in pairs)
        out[name] = {
            "ratio": statistics.median(ratios),
            "low": ratios[0],
            "high": ratios[-1],
            "milliseconds": 1e3 * statistics.median(own),
        }
    return out


def measure(
    calls: Mapping[str, Call],
    exact: Sequence[Tensor],
    *,
    base: str = "",
    over: bool = False,
    rounds: int = 7,
    seconds: float = float("inf"),
    take: Callable[[str, Any], Sequence[Tensor]] = lambda _, y: y,
) -> Figures:
    """Time, memory and error of calls that do the same work.

    Arguments:
        calls: by name; one that gives None has no error.
        exact: what they should give, in float64.
        base, over: as for `against`; the first call if empty.
        rounds, seconds: as for `interleave`: many rounds, and seconds to end them, where calls
            take microseconds.
        take: the tensors to compare with `exact`, from a call's name and what it gives.

    Returns:
        {name: {"ratio", "low", "high", "milliseconds", "peak_bytes", "error"}}.

    >>> calls = {"a": lambda: (torch.ones(2),), "b": lambda: (torch.zeros(2),)}
    >>> [row["error"] for row in measure(calls, [torch.ones(2).double()]).values()]
    [0.0, 1.0]
    """
    rows = against(interleave(calls, rounds, seconds), base or next(iter(calls)), over)
    for name, call in calls.items():
        rows[name]["peak_bytes"] = peak_bytes(call)
        found = call()
        rows[name]["error"] = 0.0 if found is None else relative_error(take(name, found), exact)
    return rows


def peak_bytes(call: Call) -> float:
    """The most resident memory a call takes over what was there before it; NaN where unknown."""
    if not STATM.exists():  # not on Linux
        return float("nan")
    _give_back()
    stop = threading.Event()
    before = most = _resident()

    def watch() -> None:
        nonlocal most
        while not stop.is_set():
            most = max(most, _resident())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        kept = call()
    finally:
        stop.set()
        watcher.join()
    most = max(most, _resident())
    del kept
    return float(most - before)


def _give_back() -> None:
    """Free memory that the allocator holds goes back to the system, else a call may reuse it."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim:
        trim(0)


def _resident() -> int:
    import resource

    return int(STATM.read_text().split()[1]) * resource.getpagesize()


def saved_tensors(call: Callable[[], object], apart_from: Sequence[Tensor]) -> list[Tensor]:
    """What autograd keeps for the backward pass of what `call` computes, each storage once.

    Arguments:
        call: the forward pass; its result is dropped.
        apart_from: tensors that are not counted: weights, tables of the graph.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> [t.shape for t in saved_tensors(lambda: x.exp() + 1, [])]
    [torch.Size([3])]
    """
    seen = {t.untyped_storage().data_ptr() for t in apart_from}
    kept: list[Tensor] = []  # all of them held, so that no storage's address is used again

    def pack(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        call()
    by_storage = {t.untyped_storage().data_ptr(): t for t in kept}
    return [t for at, t in by_storage.items() if at not in seen]


def machine() -> str:
    """Processor, cores, torch and what the operators were compiled for, in one line."""
    import os
    import platform

    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
        name = " ".join(found[0].split()) if found else name
    runs = native.isa() or "torch reference"
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, meshsim on {runs}"


def relative_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest ‖found − exact‖ / ‖exact‖ over pairs of tensors, `exact` in float64."""
    pairs = zip(found, exact, strict=True)
    return max(float((f.double() - e).norm() / e.norm().clamp(min=1e-300)) for f, e in pairs)
