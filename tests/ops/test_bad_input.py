"""Every operator, every tensor argument, spoilt in every way: an error or the right result.

All cases of one mode run in one process of their own, so that a crash shows as a failure that
names its case. What single operators say about their own arguments is in their own tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import meshsim.ops  # noqa: F401  defines all operators
from meshsim import native

Arguments = dict[str, Any]
REFUSED = (ValueError, RuntimeError, IndexError, TypeError, AssertionError)
NAMED = r"`\w+`: .*(expected|outside)|out of memory|bad_alloc|allocate|invalid dimensions"


def given() -> dict[str, Arguments]:
    """Good arguments of every operator."""
    g = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    rowptr, dst = torch.tensor([0, 2, 2, 5, 6]), torch.tensor([0, 0, 2, 2, 2, 3])
    src = torch.tensor([1, 3, 0, 1, 3, 2])
    colptr, sent = torch.tensor([0, 1, 3, 4, 6]), torch.tensor([2, 0, 3, 5, 1, 4])
    rows, groups, numbers = rand(6, 3), rand(4, 3), rand(2, 16)
    edge = {"e": rand(6, 16), "ps": rand(4, 16), "pd": rand(4, 16), "src": src, "dst": dst}
    net = {"weight": rand(2, 16, 16) / 4, "bias": rand(2, 16), "norm": numbers}
    how = {"activation": "relu", "eps": 1e-5, "bf16": False}
    by_sender = {"colptr": colptr, "sent": sent}
    nodes = {"x": rand(4, 16), "agg": rand(4, 16), "weight": rand(5, 16, 16) / 4}
    nodes |= {"bias": rand(2, 16), "norm": numbers, "next": True, **how}
    linear = [rand(16, 3), rand(16), rand(16, 16) / 4, rand(16), rand(16), rand(16)]
    rows_net = {"x": rows, "parameters": linear, "norm": True, "activation": "relu", "eps": 1e-5}
    tokens = {"x": rand(4, 16), "y": rand(4, 16), "weight": rand(7, 16, 16) / 4}
    tokens |= {"bias": rand(4, 16), "norm": numbers, "cos": rand(4, 3), "sin": rand(4, 3)}
    tokens |= {"heads": 2, "next": True, "eps": 1e-6, "bf16": False}
    anchored = {"x": rand(4, 16), "k": rand(6, 16), "v": rand(6, 16), "ptr": rowptr}
    anchored |= {"weight": rand(4, 5, 16, 16) / 4, "bias": rand(4, 5, 16), "norm": rand(4, 2, 16)}
    anchored |= {"cos": rand(4, 3), "sin": rand(4, 3), "heads": 2, "eps": 1e-6}
    mask = {"rowptr": rowptr, "col": src, "colptr": colptr, "eperm": sent, "bias": rand(6, 2)}
    heads = {"q": rand(4, 8), "k": rand(4, 8), "v": rand(4, 8), **mask}
    lse = torch.ops.meshsim.csr_attention(**heads, heads=2, scale=0.5)[1]
    cells, ring = torch.tensor([[0, 1, 2], [1, 3, 2]]), torch.tensor([[0, 1], [1, 2], [2, 0]])
    plane = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    batches = {"batch_points": torch.tensor([0, 2, 4]), "batch_queries": torch.tensor([0, 1, 3])}
    out: dict[str, Arguments] = {
        **{f"segment_{n}": {"x": rows, "rowptr": rowptr, "index": dst} for n in SEGMENTS},
        **{f"scatter_{n}": {"src": rand(2, 6, 3), "index": src, "n": 4} for n in SCATTERS},
        "segment_spread": {"x": groups, "rowptr": rowptr, "rows": 6, "mean": True},
        "segment_place": {
            "x": groups,
            "arg": torch.tensor([1, 6, 4, 5])[:, None].repeat(1, 3),
            "rowptr": rowptr,
            "rows": 6,
        },
        "segment_softmax_backward": {"grad": rows, "y": rand(6, 3), "rowptr": rowptr},
        "segment_logsumexp_backward": {"grad": groups, "x": rows, "y": groups, "rowptr": rowptr},
        "scatter_softmax_backward": {
            "grad": rand(2, 6, 3),
            "y": rand(2, 6, 3),
            "index": src,
            "n": 4,
        },
        "scatter_logsumexp_backward": {
            "grad": rand(2, 4, 3),
            "src": rand(2, 6, 3),
            "y": rand(2, 4, 3),
            "index": src,
        },
        "gather_sum": {
            "x": groups,
            "indices": src,
            "rowptr": rowptr,
            "t_indices": dst[sent],
            "t_rowptr": colptr,
        },
        "edge_block": {**edge, "rowptr": rowptr, **by_sender, **net, **how},
        "edge_block_": {**edge, "rowptr": rowptr, **net, **how},
        "edge_block_backward": {
            "grad_e": rand(6, 16),
            "grad_agg": rand(4, 16),
            **edge,
            "rowptr": rowptr,
            **by_sender,
            **net,
            **how,
        },
        "node_block": nodes,
        "node_block_backward": {
            **{name: rand(4, 16) for name in ("grad_x", "grad_ps", "grad_pd")},
            **nodes,
        },
        "token_block": tokens,
        "token_block_backward": {
            **{name: rand(4, 16) for name in ("grad_x", "grad_q", "grad_k", "grad_v", "after")},
            **tokens,
        },
        "anchor_blocks": anchored,
        "anchor_blocks_backward": {"grad": rand(4, 16), **anchored, "which": [0, 1, 4, 7]},
        "mlp_rows": rows_net,
        "mlp_rows_backward": {"grad": rand(6, 16), **rows_net, "x_grad": True},
        "csr_attention": {**heads, "heads": 2, "scale": 0.5},
        "csr_attention_backward": {
            "grad_out": rand(4, 8),
            "grad_lse": rand(4, 2),
            **heads,
            "lse": lse,
            "heads": 2,
            "scale": 0.5,
        },
        "radius": {"points": plane, "queries": plane[:3], "r": 1.1, **batches},
        "knn": {"points": plane, "queries": plane[:3], "k": 2, **batches},
        "farthest_points": {
            "points": plane,
            "n": 2,
            "start": 0,
            "batch": torch.tensor([0, 2, 4]),
        },
        "locate": {"points": plane, "cells": cells, "queries": rand(3, 2), "tolerance": 1e-9},
        "interpolate": {
            "values": groups,
            "cells": cells,
            "ids": torch.tensor([1, -1, 0]),
            "weights": rand(3, 3),
        },
        "morton_order": {"points": plane},
        "rcm_order": {"rowptr": rowptr, "indices": src},
        "cells_to_edges": {"nodes": [cells], "local": [ring], "n_points": 4},
        "cells_to_faces": {
            "nodes": [cells],
            "local": [ring],
            "cells": [torch.arange(2)],
            "n_points": 4,
            "min_corners": 1,
        },
    }
    return out


SEGMENTS = ("sum", "mean", "max", "min", "softmax", "logsumexp")
SCATTERS = ("sum", "mean", "mul", "max", "min", "softmax", "logsumexp")
# Given for other uses than this call: nothing is read from them, so nothing is wrong with them.
UNREAD = {
    **{f"segment_{n}": ("index",) for n in SEGMENTS},
    "gather_sum": ("t_indices", "t_rowptr"),
    "edge_block": ("colptr", "sent"),
    "csr_attention": ("colptr", "eperm"),
}
# The reference derives these itself.
DERIVED = {
    *("edge_block_backward(colptr)", "edge_block_backward(sent)"),
    *("csr_attention_backward(colptr)", "csr_attention_backward(eperm)"),
}
POINTERS = ("rowptr", "ptr", "colptr", "batch", "batch_points", "batch_queries")


def spoilt(x: Tensor, name: str, backward: bool) -> Iterator[tuple[str, Tensor]]:
    """Other versions of a tensor, most of them wrong: (what it is, the tensor)."""
    yield "fits?: of another kind", x.long() if x.is_floating_point() else x.to(torch.int32)
    yield "fits?: double or complex", x.to(torch.complex64 if x.is_floating_point() else float)
    yield "fits?: one dimension more", x[None]
    yield "fits?: no dimension", x.reshape(-1)[0]
    yield "fits?: one row less", x[:-1]
    yield "fits?: one row more", torch.cat([x, x[-1:]])
    yield "fits?: without rows", x[:0]
    if x.dim() > 1:
        yield "fits?: one column less", x[..., :-1]
        yield "fits?: one column more", torch.cat([x, x[..., -1:]], -1)
        yield "fits?: without columns", x[..., :0]
    yield "alive: sparse", x.to_sparse()
    yield "alive: on another device", x.to("meta")
    if x.is_floating_point():
        for value in (torch.nan, torch.inf):
            hole = x.clone()
            hole.view(-1)[-1] = value
            # gradients of what is not finite may be NaN in more places or fewer
            yield f"{'alive' if backward else 'fits?'}: {value}", hole
        yield "alive: huge", x * 1e38
        return
    # −1 is where `locate` has found no cell
    for bad in (-1 - (name == "ids"), 1 << 31, 1 << 62, -(1 << 63)):
        for at in (0, -1):
            wrong = x.clone()
            wrong.view(-1)[at] = bad
            yield f"bad: {bad} at {at}", wrong
    if name in POINTERS:
        yield "bad: not rising", torch.cat([x[:1], x[1:-1] + x[-1], x[-1:]])
        yield "bad: not from 0", torch.cat([x[:1] + 1, x[1:]])


def moved(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same numbers in other places of memory: nothing is wrong with them."""
    wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
    wide[..., ::2] = x
    yield "same: every second number", wide[..., ::2]
    yield "same: with an offset", torch.cat([x[:1], x])[1:]
    yield "same: negative bit", torch._neg_view(-x)
    if x.dim() > 1:
        yield "same: transposed", x.transpose(0, 1).contiguous().transpose(0, 1)


def cases() -> Iterator[tuple[str, str, str, Arguments]]:
    """(operator, argument, what came of it, all arguments)."""
    for op, arguments in given().items():
        for name, value in arguments.items():
            listed = isinstance(value, list)
            x = value[0] if listed else value
            if isinstance(x, Tensor):
                for what, y in (*spoilt(x, name, "backward" in op), *moved(x)):
                    yield op, name, what, {**arguments, name: [y, *value[1:]] if listed else y}
    for op, change, what in NUMBERS:
        yield op, next(iter(change)), what, {**given()[op], **change}


HUGE = 1 << 61  # times eight bytes is 0 in 64 bits
NUMBERS: list[tuple[str, Arguments, str]] = [
    *((f"scatter_{n}", {"n": -1}, "bad: negative") for n in SCATTERS),
    *(
        (f"scatter_{n}", {"n": HUGE, "src": torch.zeros(0, 6, 3)}, "kernel: of no memory")
        for n in SCATTERS
    ),
    *(
        (f"scatter_{n}", {"n": (1 << 63) - 1, "src": torch.zeros(2, 6, 0)}, "kernel: of no memory")
        for n in SCATTERS
    ),
    ("segment_spread", {"rows": 7}, "bad: other than rowptr's"),
    ("segment_spread", {"rows": -1}, "bad: negative"),
    ("segment_place", {"rows": 7}, "bad: other than rowptr's"),
    ("knn", {"k": -1}, "bad: negative"),
    ("knn", {"k": 1 << 62}, "bad: too many"),
    ("radius", {"r": float("inf")}, "fits?: infinite"),
    ("radius", {"max_neighbors": -1}, "bad: negative"),
    ("locate", {"tolerance": float("inf")}, "alive: infinite"),
    ("locate", {"tolerance": float("nan")}, "bad: NaN"),
    ("farthest_points", {"n": 1 << 62}, "bad: too many"),
    ("farthest_points", {"start": 1 << 62}, "bad: too far"),
    ("cells_to_edges", {"n_points": 1 << 31}, "kernel: more than int32 holds"),
    ("cells_to_faces", {"n_points": 1 << 31}, "kernel: more than int32 holds"),
    ("cells_to_faces", {"min_corners": -5}, "fits?: negative"),
    ("csr_attention", {"heads": 1 << 62}, "bad: too many"),
    ("csr_attention", {"heads": -2}, "bad: negative"),
]


def main() -> None:
    """Run all cases, each named before it runs; print what kernel and reference said of each."""
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    for op, name, what, arguments in cases():
        if what.startswith("kernel") and not native.has_kernel(op, "CPU"):
            continue
        print(f"{op}({name}) {what}", file=sys.stderr, flush=True)
        found = [answer(kernel, op, arguments), "not run"]
        if not what.startswith("kernel"):  # of sizes that the reference would make room for
            found[1] = answer(reference, op, arguments)
        told = [x if isinstance(x, str) else "" for x in found]
        if what.startswith("same"):
            told[1], found[1] = "", flat(kernel(op, given()[op]))
        alike = not any(told) and close(*found)
        print(json.dumps([f"{op}({name})", what, *told, alike]))


def kernel(op: str, arguments: Arguments) -> Any:
    return overwriting(getattr(torch.ops.meshsim, op).default, op, arguments)


def reference(op: str, arguments: Arguments) -> Any:
    work = getattr(torch.ops.meshsim, op).default._op_dk
    key = torch._C.DispatchKey.CompositeExplicitAutograd
    return overwriting(lambda **own: work(key, **own), op, arguments)


def overwriting(work: Callable[..., Any], op: str, arguments: Arguments) -> Any:
    """What comes out, with the argument that `edge_block_` overwrites a copy (of its strides)."""
    if op != "edge_block_":
        return work(**arguments)
    own = {**arguments, "e": arguments["e"].clone()}
    return [work(**own), own["e"]]


def answer(run: Callable[..., Any], op: str, arguments: Arguments) -> list[Any] | str:
    try:
        return flat(run(op, arguments))
    except REFUSED as error:
        return f"{type(error).__name__}: {error}"[:400]


def flat(x: Any) -> list[Any]:
    return [y for part in x for y in flat(part)] if isinstance(x, (list, tuple)) else [x]


def close(a: list[Any], b: list[Any]) -> bool:
    return all(
        x.shape == y.shape
        and not (x.is_sparse or y.is_sparse or x.is_meta or y.is_meta)
        and torch.allclose(x.to(y.dtype), y, 1e-4, 1e-4, equal_nan=True)
        for x, y in zip(a, b, strict=True)
    )


@pytest.fixture(scope="module")
def answers() -> list[list[Any]]:
    """What all cases gave; a crash is told with the case that it came in."""
    from tests.ops.blocks import needs_own_kernels

    needs_own_kernels()
    done = subprocess.run(
        [sys.executable, __file__],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_no_operator_is_left_out():
    assert set(given()) == set(native.defined())


def test_what_is_wrong_is_refused_by_kernel_and_reference(answers):
    """And the kernel names an argument, what it expected and what it got."""
    wrong = [a for a in answers if a[1].startswith(("bad", "kernel")) and not unread(a[0])]
    assert len(wrong) > 300
    running = native.active()["segment_sum"]["cpu"] == "native"
    for case, what, of_kernel, of_reference, _ in wrong:
        assert of_kernel or (not running and case in DERIVED), (case, what)
        assert of_reference or case in DERIVED, (case, what)
        if running:
            assert re.search(NAMED, of_kernel), (case, what, of_kernel)


def test_what_is_accepted_is_right(answers):
    """The kernel gives what the reference gives, or refuses by name."""
    for case, what, of_kernel, of_reference, alike in answers:
        if what.startswith("same"):
            assert alike or "contiguous" in of_kernel, (case, what, of_kernel)
        elif what.startswith("fits?") and not of_kernel and not unread(case):
            assert alike, (case, what, of_reference)


@pytest.mark.parametrize("op", [op for op in given() if native.has_kernel(op, "CPU")])
def test_a_tensor_of_another_device_is_named(op):
    """By the kernel, which torch calls for a mixture of CPU and GPU."""
    right = given()[op]
    for name, x in right.items():
        if not isinstance(x, Tensor) or unread(f"{op}({name})"):
            continue
        wrong = {**right, name: x.to("meta")}
        with pytest.raises(ValueError, match="expected a tensor on") as told:
            getattr(torch.ops.meshsim, op).default._op_dk(torch._C.DispatchKey.CPU, **wrong)
        assert str(told.value) == f"`{name}`: expected a tensor on cpu, got one on meta"


@pytest.mark.parametrize(
    "op",
    [
        *("edge_block", "edge_block_", "edge_block_backward"),
        *("node_block", "node_block_backward"),
    ],
)
def test_a_mixture_with_meta_gives_no_memory_that_nobody_wrote(op):
    """Torch gives it to the operator's fake, not to a kernel."""
    right = given()[op]
    first = "e" if "edge" in op else "x"
    for name, x in right.items():
        if isinstance(x, Tensor) and name != first:
            with pytest.raises(ValueError, match=f"`{name}`: expected a tensor on cpu, got one on"):
                getattr(torch.ops.meshsim, op)(**{**right, name: x.to("meta")})


def test_an_error_in_another_thread_is_told():
    n = 50_000
    x, arg = torch.zeros(n, 8), torch.full((n, 8), n)
    arg[-2] = 7  # of another segment
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        if native.has_kernel("segment_place", "CPU"):
            with pytest.raises(ValueError, match="`arg`: row 7 of segment 49998"):
                torch.ops.meshsim.segment_place(x, arg, torch.arange(n + 1), n)
    finally:
        torch.set_num_threads(before)


def unread(case: str) -> bool:
    op, name = case[:-1].split("(")
    return name in UNREAD.get(op, ())


if __name__ == "__main__":
    main()
