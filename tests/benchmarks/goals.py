"""The goals of the compiled operators, and what a run of the benchmarks says of each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Rows = dict[str, dict[str, float]]
Cases = dict[str, Rows]
PEERS = ("PhysicsNeMo", "split", "torch.compile(split)")
NODES = {"3-D": 30_000, "3-D large": 300_000}


@dataclass(frozen=True)
class Goal:
    """What is wanted of one benchmark.

    Arguments:
        benchmark: name of the file that measures it, without `bm_`.
        text: what.
        limit: at least that much, or at most where `most` is set; with None, less with more
            threads.
        measure: the figure out of the benchmark's cases; raises LookupError without one.
        most: see `limit`.
        also: another run that has a word in it; the least favourable figure counts.
        amx: holds only where the processor multiplies bfloat16 matrices.
        informative: no goal, but stands here to be read beside one.
    """

    benchmark: str
    text: str
    limit: float | None
    measure: Callable[[Cases], float]
    most: bool = False
    also: str = ""
    amx: bool = False
    informative: bool = False

    @property
    def wanted(self) -> str:
        if self.limit is None:
            return "falls"
        return ("≤ " if self.most else "≥ ") + _number(self.limit)

    def reached(self, value: float) -> bool:
        return value <= self.limit if self.most else value >= self.limit

    def verdict(self, values: dict[int, float], has_amx: bool) -> str:
        """What the figures say, by number of threads."""
        if not values:
            return "not measured"
        if self.amx and not has_amx:
            return "needs AMX"
        if self.limit is None:
            return _falls([values[t] for t in sorted(values)])
        yes = [str(t) for t, value in values.items() if self.reached(value)]
        if self.informative:
            return "for information"
        if len(yes) == len(values):
            return "yes"
        return f"with {' and '.join(yes)} threads only" if yes else "**no**"


def _falls(values: list[float]) -> str:
    if len(values) < 2:
        return "needs two runs"
    return "yes" if all(a > b for a, b in itertools.pairwise(values)) else "**no**"


def rows_of(cases: Cases, start: str, *words: str) -> Rows:
    """The rows of the case whose name starts so and has the words."""
    for name, rows in cases.items():
        if name.startswith(start) and all(word in name for word in words):
            return rows
    raise LookupError(start)


def faster(rows: Rows, ours: str, peer: Callable[[str], bool]) -> float:
    """How many times as fast as the fastest peer ours is, by their ratios to the same base."""
    theirs = [row["ratio"] for name, row in rows.items() if peer(name)]
    if not theirs or ours not in rows:
        raise LookupError(ours)
    return rows[ours]["ratio"] / max(theirs)


def low(rows: Rows) -> str:
    """The fastest form of ours with bfloat16."""
    names = [name for name in ("meshsim bf16 edges", "meshsim bf16 products") if name in rows]
    if not names:
        raise LookupError("bfloat16")
    return max(names, key=lambda name: rows[name]["ratio"])


def _block(mode: str, bf16: bool, peer: str, autocast: bool = False) -> Callable[[Cases], float]:
    def is_peer(name: str) -> bool:
        if peer == "PyG":
            return name == "PyG"
        return name.startswith(PEERS) and name.endswith("autocast") == autocast

    def measure(cases: Cases) -> float:
        rows = rows_of(cases, f"30k {mode}")
        return faster(rows, low(rows) if bf16 else "meshsim", is_peer)

    return measure


def _figure(start: str, variant: str, key: str, *words: str) -> Callable[[Cases], float]:
    return lambda cases: rows_of(cases, start, *words)[variant][key]


def _against_pyg(case: str, key: str) -> Callable[[Cases], float]:
    def measure(cases: Cases) -> float:
        rows = rows_of(cases, case)
        return rows["meshsim"][key] / rows["PyG"][key]

    return measure


def _norm_gradients(cases: Cases) -> float:
    rows = rows_of(cases, "30k forward+backward")
    return rows[low(rows)]["norm_error"]


def _bandwidth(cases: Cases) -> float:
    """Bytes read and written by the sum per second over those of a copy."""
    for name, rows in cases.items():
        if found := re.match(r"3-D sum, (\d+) x", name):
            moved = 1 + NODES["3-D"] / int(found[1])  # of E·H·4; a copy moves 2
            return rows["copy"]["ratio"] * moved / 2
    raise LookupError("3-D sum")


def slower(cases: Cases) -> Iterator[tuple[str, str, float]]:
    """Case, peer and ratio wherever a peer was faster than the segment operators."""
    for case, rows in cases.items():
        for name, row in rows.items():
            if name not in ("meshsim", "copy", "reference") and row["ratio"] < 1:
                yield case, name, row["ratio"]


def _least(cases: Cases) -> float:
    found = [
        row["ratio"]
        for rows in cases.values()
        for name, row in rows.items()
        if name not in ("meshsim", "copy", "reference")
    ]
    if not found:
        raise LookupError("segment")
    return min(found)


def _large(variant: str) -> Callable[[Cases], float]:
    return lambda cases: next(iter(cases.values()))[variant]["peak_bytes"] / 1e9


BOTH = "forward+backward"
MS = ("meshsim", "milliseconds")
GOALS = (
    Goal("blocks", "block forward, float32, × PyG", 4.5, _block("forward", False, "PyG")),
    Goal(
        "blocks",
        "… × PhysicsNeMo's fastest",
        3,
        _block("forward", False, "PhysicsNeMo"),
        also="compile",
    ),
    Goal(
        "blocks",
        "block forward, bfloat16, × PyG float32",
        10,
        _block("forward", True, "PyG"),
        amx=True,
    ),
    Goal(
        "blocks",
        "… × PhysicsNeMo under autocast",
        5,
        _block("forward", True, "PhysicsNeMo", autocast=True),
        amx=True,
    ),
    Goal("blocks", "block with backward, float32, × PyG", 2.5, _block(BOTH, False, "PyG")),
    Goal(
        "blocks",
        "… × PhysicsNeMo's fastest",
        1.7,
        _block(BOTH, False, "PhysicsNeMo"),
        also="compile",
    ),
    Goal(
        "blocks",
        "block with backward, bfloat16, × PyG float32",
        5,
        _block(BOTH, True, "PyG"),
        amx=True,
    ),
    Goal("blocks", "… its LayerNorm gradients' error", 1e-2, _norm_gradients, most=True),
    Goal(
        "blocks",
        "peak of a block forward, E·H·4 bytes",
        1.5,
        _figure("30k forward", "meshsim", "units"),
        most=True,
    ),
    Goal(
        "blocks",
        "… with edges in bfloat16",
        1.0,
        _figure("30k forward", "meshsim bf16 edges", "units"),
        most=True,
        informative=True,
    ),
    Goal(
        "blocks",
        "kept on edges for the backward pass, E·H·4 bytes a block",
        1.0,
        _figure(f"30k {BOTH}", "meshsim", "saved_on_edges"),
        most=True,
    ),
    Goal(
        "blocks",
        "error of a block's values, float32, × PyG's own",
        1.0,
        _against_pyg("30k forward", "error"),
        most=True,
    ),
    Goal(
        "blocks",
        "error of its inputs' gradients, float32, × PyG's own",
        1.0,
        _against_pyg("30k forward", "grad_error"),
        most=True,
    ),
    Goal("blocks", "block forward, ms", None, _figure("30k forward", *MS)),
    Goal("blocks", "block with backward, ms", None, _figure(f"30k {BOTH}", *MS)),
    Goal(
        "meshgraphnet",
        "network on 2k nodes, 2-D, inference, float32, × PyG",
        2.5,
        _figure("2k forward,", "meshsim", "ratio"),
    ),
    Goal(
        "meshgraphnet",
        "… bfloat16, × PyG float32",
        6,
        _figure("2k forward,", "meshsim bf16 products", "ratio"),
        amx=True,
    ),
    Goal("attention", "attention forward, × PyG", 18, _figure("30k", "meshsim", "ratio", "h128 ")),
    Goal("layer", "attention layer forward, × PyG", 8, _figure("30k", "meshsim", "ratio")),
    Goal("segment", "sum, × index_add_", 5, _figure("3-D sum,", "index_add", "ratio")),
    Goal("segment", "mean, × PyG", 6, _figure("3-D mean,", "PyG scatter", "ratio")),
    Goal("segment", "max, × PyG", 5, _figure("3-D max,", "PyG scatter", "ratio")),
    Goal("segment", "softmax, × PyG", 5, _figure("3-D softmax,", "PyG softmax", "ratio")),
    Goal("segment", "sum, of copy bandwidth", 0.7, _bandwidth),
    Goal(
        "segment",
        "sum at 300k nodes, × index_add_",
        2,
        _figure("3-D large sum,", "index_add", "ratio"),
    ),
    Goal("segment", "against any peer at any size, least", 1, _least),
    Goal(
        "neighbors", "radius, × scipy", 6, _figure("radius 3-D uniform", "scipy cKDTree", "ratio")
    ),
    Goal(
        "neighbors", "k nearest, × scipy", 2.8, _figure("knn 3-D uniform", "scipy cKDTree", "ratio")
    ),
    Goal(
        "neighbors",
        "radius, × PhysicsNeMo",
        25,
        _figure("radius 3-D uniform", "PhysicsNeMo", "ratio"),
    ),
    Goal("tables", "edges, × np.unique", 7, _figure("edges in order", "np.unique", "ratio")),
    Goal("tables", "faces, × numpy", 8, _figure("faces in order", "np.lexsort", "ratio")),
    Goal(
        "io",
        "bytes of a window of 10 times and 1,000 nodes, of the sample's",
        0.05,
        _figure("window", "1,000 nodes in 8 blocks", "share"),
        most=True,
    ),
    Goal("io", "a million tetrahedra to a graph, × meshio", 5, _figure("read", "meshsim", "ratio")),
    Goal(
        "io",
        "… its peak, × the file",
        3,
        _figure("read", "meshsim", "peak_over_file"),
        most=True,
    ),
    Goal(
        "preprocess",
        "preprocess, throughput of two workers, × one",
        1.7,
        lambda cases: next(iter(cases.values()))["two workers"]["ratio"],
    ),
    Goal("large", "300k nodes, 15 blocks: GB over the inputs", 4, _large("meshsim"), most=True),
)


def table(
    found: dict[tuple[str, int], Cases], judge: bool = True, has_amx: bool = True
) -> list[str]:
    """Lines of a Markdown table: goal, figure for each number of threads, reached or not.

    Goals of files that were not run are left out.

    Arguments:
        found: {(benchmark, threads): cases}.
        judge: False where the sizes were too small for it.
        has_amx: whether the operators ran on AMX.
    """
    threads = sorted({t for _, t in found})
    head = " | ".join(f"{t} thread{'s' * (t > 1)}" for t in threads)
    lines = [f"| goal | wanted | {head} | reached |", "|---|---|" + "---|" * (len(threads) + 1)]
    ran = {name for name, _ in found}
    for goal in (goal for goal in GOALS if goal.benchmark in ran):
        values = {}
        for t in threads:
            if figures := list(_figures(goal, found, t)):
                values[t] = max(figures) if goal.most else min(figures)
        shown = " | ".join(_number(values[t]) if t in values else "–" for t in threads)
        said = goal.verdict(values, has_amx) if judge else "too small to say"
        lines.append(f"| {goal.text} | {goal.wanted} | {shown} | {said} |")
    return lines


def _figures(goal: Goal, found: dict[tuple[str, int], Cases], threads: int) -> Iterator[float]:
    for name in (goal.benchmark, goal.also):
        try:
            yield goal.measure(found[name, threads])
        except (LookupError, StopIteration):
            continue


def _number(x: float) -> str:
    if 0 < abs(x) < 0.01:
        return f"{x:.1e}"
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"
