"""CUDA kernels on a large mesh against PyG, torch.compile and copying memory, on one GPU.

Run: python tests/benchmarks/bm_cuda.py [--side 100] [--only block segment attention tables network]
     [--compile] [--json]

The mesh is a cube of side³ boxes cut into tetrahedra: 1 M nodes and 14 M directed edges with
--side 100. Interleaved rounds, each call waited for; for each variant the median of (time of the
first / its time) in the same round, with the range, the most memory over the inputs, and the error
against float64 on a mesh that is small enough for it. Fails if a kernel under test is not active.
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch_geometric.utils import scatter, softmax

from meshsim import native, ops
from meshsim.benchmarks import EDGES, FACES, Block, Messages, cube, gathered, graph_of
from meshsim.check import WorkError
from meshsim.graph import MeshGraph
from meshsim.models import MeshGraphNet
from meshsim.nn import MessageBlock, pass_messages
from meshsim.ops.adjacency import adjacency
from meshsim.ops.attention import entries_by_column
from meshsim.timing import Call, Figures, against, interleave, relative_error
from tests.benchmarks.bm_blocks import split, steady_error
from tests.benchmarks.report import parse, parser, report

BF16, F32 = torch.bfloat16, torch.float32
SMALL = 20  # side of the mesh on which errors are measured
Calls = dict[str, Call]
Case = tuple[str, Figures]


def graph(side: int) -> tuple[Tensor, int]:
    edges, n = graph_of(cube(side)[0])
    return edges.cuda(), n


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(*shape, device="cuda", generator=generator)


def measured(calls: Calls, errors: dict[str, float], options: argparse.Namespace) -> Figures:
    """Times and memory of calls, the first being the base; one that does not fit is left out."""
    fit = {}
    for name, call in calls.items():
        try:
            waited(call)
            fit[name] = partial(waited, call)
        except torch.OutOfMemoryError:
            if name == next(iter(calls)):
                raise  # nothing to compare with
            print(f"{name}: left out, it does not fit into memory", file=sys.stderr)
            free()
    rows = against(interleave(fit, options.rounds, options.seconds), next(iter(fit)))
    for name in rows:
        rows[name]["peak_bytes"] = peak(fit[name])
        rows[name]["error"] = errors.get(name, float("nan"))
    return rows


def waited(call: Call) -> None:
    call()
    torch.cuda.synchronize()


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def peak(call: Call) -> float:
    free()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return float(torch.cuda.max_memory_allocated() - before)


def errors_of(
    calls: dict[str, Callable[[], tuple[Tensor, ...]]], values: int | None = None
) -> dict[str, float]:
    """The largest relative error of what each call gives against the last one's, in float64.

    After the first `values` tensors come gradients, on whose rows a ReLU may turn over.
    """
    found = {name: call() for name, call in calls.items()}
    exact = found.popitem()[1]
    out = {}
    for name, y in found.items():
        pairs = list(zip(y, exact, strict=True))
        off = [relative_error([a], [b]) for a, b in pairs[:values]]
        out[name] = max(*off, *(steady_error(a, b) for a, b in pairs[len(off) :]), 0.0)
    return out


def block_variants(side: int, compiled: bool) -> tuple[dict[str, Block], dict[str, list[Tensor]]]:
    """Message blocks by name, with the nodes and edges that each takes."""
    edges, n = graph(side)
    torch.manual_seed(0)
    block = MessageBlock(128).cuda()
    low, wide = copy.deepcopy(block).to(BF16), copy.deepcopy(block).double()
    table = adjacency(edges, n)
    x, e = random(n, 128), random(edges.shape[1], 128, seed=1)

    def plain(block: MessageBlock) -> Block:
        net = Messages(block.edge, block.node)
        return lambda x, e: net(x, e, edges)

    def ours(x: Tensor, e: Tensor, low: bool = True) -> tuple[Tensor, Tensor]:
        with torch.autocast("cuda", BF16, enabled=low):
            return pass_messages([block], x, e, table)

    runs = {
        "PyG bfloat16": plain(low),
        "split bfloat16": split(low, *edges),
        "PyG": plain(block),
        "meshsim": partial(ours, low=False),
        "meshsim bf16 products": ours,
        "meshsim bf16 edges": ours,
        "exact": plain(wide),
    }
    if compiled:
        runs = {"torch.compile(split) bfloat16": torch.compile(runs["split bfloat16"]), **runs}
    given = {}
    for name in runs:
        whole = BF16 if "bfloat16" in name else torch.float64 if name == "exact" else F32
        given[name] = [x.to(whole), e.to(BF16 if "bf16 edges" in name else whole)]
    return runs, given


def forward(run: Block, given: list[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return run(*given)


def both(run: Block, given: list[Tensor]) -> tuple[Tensor, ...]:
    leaves = [t.detach().requires_grad_() for t in given]
    y = run(*leaves)
    return *(t.detach() for t in y), *torch.autograd.grad(y, leaves, [t.detach() for t in y])


def blocks(options: argparse.Namespace) -> Iterator[Case]:
    for mode, call in (("forward", forward), ("forward+backward", both)):
        runs, given = block_variants(SMALL, options.compile)
        errors = errors_of({name: partial(call, runs[name], given[name]) for name in runs}, 2)
        free()
        runs, given = block_variants(options.side, options.compile)
        del given["exact"]
        names = sorted(given, key="PyG bfloat16".__ne__)  # what is compared with comes first
        calls: Calls = {name: partial(call, runs[name], given[name]) for name in names}
        n, m = len(given["PyG"][0]), len(given["PyG"][1])
        yield f"block {mode}: {n} nodes, {m} edges, width 128", measured(calls, errors, options)
        del runs, given, calls
        free()


def reductions(side: int, dtype: torch.dtype) -> dict[str, Calls]:
    edges, n = graph(side)
    receiver, rowptr = edges[1], adjacency(edges, n).rowptr
    x = random(edges.shape[1], 128).to(dtype)
    room = torch.empty_like(x)
    return {
        "sum": {
            "copy": lambda: (room.copy_(x),),
            "index_add": lambda: (x.new_zeros(n, 128).index_add_(0, receiver, x),),
            "segment_reduce": lambda: (torch.segment_reduce(x, "sum", offsets=rowptr),),
            "meshsim": lambda: (ops.segment_sum(x, rowptr),),
        },
        "max": {
            "PyG scatter": lambda: (scatter(x, receiver, 0, n, "max"),),
            "meshsim": lambda: (ops.segment_max(x, rowptr)[0],),
        },
        "softmax": {
            "PyG": lambda: (softmax(x, receiver, num_nodes=n),),
            "meshsim": lambda: (ops.segment_softmax(x, rowptr),),
        },
    }


def segments(options: argparse.Namespace) -> Iterator[Case]:
    for dtype in (F32, BF16):
        small, exact = (reductions(SMALL, d) for d in (dtype, torch.float64))
        errors = {
            name: errors_of({**{k: c for k, c in calls.items() if k != "copy"}, "exact": right})
            for name, calls in small.items()
            for right in [exact[name]["meshsim"]]
        }
        for name, calls in reductions(options.side, dtype).items():
            rows = measured(calls, errors[name], options)
            if name == "sum":
                share = rows["meshsim"]["ratio"] * (1 + 1 / 14) / 2  # a copy moves 2 E·H
                print(f"{dtype}: {100 * share:.0f} % of copy bandwidth", file=sys.stderr)
            yield f"segment {name}, {str(dtype)[6:]}", rows
        free()


def attentions(side: int, dtype: torch.dtype, back: bool) -> Calls:
    edges, n = graph(side)
    table = adjacency(edges, n)
    columns = entries_by_column(table.sender, n)
    rows = [random(n, 128, seed=i).to(dtype) for i in range(4)]
    plain = gathered(table.sender, table.receiver, n, 4)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ops.csr_attention(q, k, v, table.rowptr, table.sender, 4, columns=columns)[0]

    def call(run: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        if not back:
            with torch.no_grad():
                return (run(*rows[:3]),)
        leaves = [t.detach().requires_grad_() for t in rows[:3]]
        return torch.autograd.grad(run(*leaves), leaves, rows[3])

    return {"PyG": partial(call, plain), "meshsim": partial(call, ours)}


def attention(options: argparse.Namespace) -> Iterator[Case]:
    for dtype in (F32, BF16):
        for back in (False, True):
            exact = attentions(SMALL, torch.float64, back)["PyG"]
            errors = errors_of({**attentions(SMALL, dtype, back), "exact": exact})
            mode = "forward+backward" if back else "forward"
            rows = measured(attentions(options.side, dtype, back), errors, options)
            yield f"attention {mode}, {str(dtype)[6:]}, 4 heads", rows
            free()


def tables(options: argparse.Namespace) -> Iterator[Case]:
    """Searches and tables against the same operators on the processor, which give the same bits."""
    points = torch.rand(options.side**3, 3, generator=torch.Generator().manual_seed(0))
    reach = (3 * 16 / (4 * torch.pi * len(points))) ** (1 / 3)
    cells, n = cube(options.side)
    ids = torch.arange(len(cells))
    there = [x.cuda() for x in (points, cells, ids, EDGES, FACES)]
    for name, call in {
        "radius": lambda p, *_: ops.radius(p, p, reach),
        "16 nearest": lambda p, *_: ops.knn(p, p, 16),
        "morton order": lambda p, *_: ops.morton_order(p),
        "edges": lambda p, c, i, e, f: ops.cells_to_edges([(c, e)], n),
        "faces": lambda p, c, i, e, f: ops.cells_to_faces([(c, f, i)], n),
    }.items():
        here = [points, cells, ids, EDGES, FACES]
        calls: Calls = {"processor": partial(call, *here), "meshsim": partial(call, *there)}
        size = len(points) if "e" not in name[:1] and name != "faces" else len(cells)
        yield f"{name} of {size}", measured(calls, {}, options)
    free()


def network(options: argparse.Namespace) -> Iterator[Case]:
    """A whole MeshGraphNet of 15 blocks, as a user calls it, against one of PyG's blocks."""
    edges, n = graph(options.side)
    torch.manual_seed(0)
    net = MeshGraphNet(8, 4, {"u": 3}, width=128, depth=15).cuda()
    net.edge_dtype = BF16
    plain = [Messages(block.edge, block.node).to(BF16) for block in copy.deepcopy(net).blocks]
    x, e = random(n, 8), random(edges.shape[1], 4, seed=1)
    data = MeshGraph(x=x, edge_index=edges, edge_attr=e, num_nodes=n)

    def theirs() -> None:
        with torch.no_grad(), torch.autocast("cuda", BF16):
            rows, wide = net.encode_node(x).to(BF16), net.encode_edge(e).to(BF16)
            for block in plain:
                rows, wide = block(rows, wide, edges)
            net.decode(rows)

    def ours() -> None:
        with torch.no_grad(), torch.autocast("cuda", BF16):
            net(data)

    calls: Calls = {"PyG bfloat16": theirs, "meshsim": ours}
    yield f"network of 15 blocks, inference: {n} nodes", measured(calls, {}, options)
    free()


PARTS = {
    "block": blocks,
    "segment": segments,
    "attention": attention,
    "tables": tables,
    "network": network,
}


def require() -> None:
    """Raises WorkError where a kernel is not the one for CUDA."""
    for op in ("edge_block", "node_block", "segment_sum", "csr_attention", "radius"):
        if native.active()[op]["cuda"] != "native":
            raise WorkError(f"{op}: no CUDA kernel ({native.active()[op]['why']})")


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--side", type=int, default=100)
    known.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    known.add_argument("--compile", action="store_true", help="torch.compile too (slow to start)")
    options = parse(known)
    require()
    name = torch.cuda.get_device_name()
    report(options, (case for part in options.only for case in PARTS[part](options)), name)


if __name__ == "__main__":
    main()
