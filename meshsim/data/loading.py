"""Windows as torch_geometric data: of few nodes, or of whole meshes; and a loader of their batches.

Loaded only when used: torch_geometric takes two seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from meshsim.check import InputError, check_known, whole_number
from meshsim.data.blocks import draw
from meshsim.data.schema import Schema
from meshsim.data.store import Store
from meshsim.data.unread import Unread, unread
from meshsim.data.windows import Windows
from meshsim.graph import MeshGraph, from_points, node_graph
from meshsim.mesh import Mesh

Index = int | tuple[int, int]  # or (epoch, index), as `loader` asks
_TABLES = ("states", "targets", "parameters")


def _is_field(data: Data, key: str) -> bool:
    """Whether PyG asks about a field: it would judge "refractive_index" by its name."""
    return any(key in (data.get(table) or {}) for table in _TABLES)


class NodeSet(Data):
    """A window on some nodes; batches of it are PyG's own.

    Attributes:
        pos: (n, D) places (of points at rest; of moving ones the first of the window).
        node: (n,) int64 their numbers in the mesh, rising.
        weight: (n,) N/n, what each stands for: Σ weight · f estimates Σ f over the mesh.
        states: {field: (n, L, c)}.
        targets, parameters: {field: (n, L, c), (n, c) where it does not change in time, (1, c)
            where it is one for all}.
        points: (n, L, D), where points move.
        times: (1, L) float64, where there are times.
        window: (1,) int64 its number.
    """

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 0 if _is_field(self, key) else super().__cat_dim__(key, value, *args, **kwargs)

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 0 if _is_field(self, key) else super().__inc__(key, value, *args, **kwargs)


class WindowGraph(MeshGraph):
    """A graph with a window's `states`, `targets`, `parameters`, `points`, `times` and `window`.

    As on a `NodeSet`, of all nodes.
    """

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 0 if _is_field(self, key) else super().__cat_dim__(key, value, *args, **kwargs)

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 0 if _is_field(self, key) else super().__inc__(key, value, *args, **kwargs)


class NodeWindows(Dataset):
    """Windows of `length` states on a random set of nodes each, drawn anew every epoch.

    Only the chunks that hold the nodes are read, and no mesh. The nodes are some runs of rows
    that are neighbours in the file, spread over all of it; each node is drawn with the same
    probability n/N, so that sums weighted by N/n are unbiased. What is drawn depends on seed,
    epoch and number of the window alone, whichever process reads it.

    Arguments:
        store: where the samples are.
        names: a split of the store, or names of samples.
        length: states a window.
        nodes: n, how many to draw; all where a mesh has no more.
        blocks: in how many runs; more of them spread further and read more.
        stride: frames from one state to the next.
        location: "point" or "cell"; the centres of cells need the whole mesh, once a process.
        schema: the fields; default: the store's.
        branch: which branch of the samples; None: their only one.
        every: only each `every`-th start.
        dtype: of floating-point values.
        seed: of the draws.

    Raises:
        InputError: no schema, a field missing or elsewhere, no series long enough, a count or seed
            that is none.
    """

    def __init__(
        self,
        store: Store,
        names: str | Sequence[str],
        length: int,
        nodes: int,
        *,
        blocks: int = 8,
        stride: int = 1,
        location: str = "point",
        schema: Schema | None = None,
        branch: str | None = None,
        every: int = 1,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        length = whole_number(length, "length")
        nodes, blocks = whole_number(nodes, "nodes"), whole_number(blocks, "blocks")
        stride, every = whole_number(stride, "stride"), whole_number(every, "every")
        seed = whole_number(seed, "seed", 0)
        check_known(location, ("point", "cell"), "location")
        fields = schema or store.schema
        if fields is None:
            raise InputError(f"{store.path}: the store has no schema: say which fields there are")
        self.store, self.schema, self.names = store, fields, store.members(names)
        self.length, self.nodes, self.stride, self.seed = length, nodes, stride, seed
        self.blocks, self.dtype = blocks, dtype
        self._options = {"location": location, "branch": branch, "every": every}
        self._parts: list[tuple[Unread, range]] = []
        for name in self.names:
            for part in unread(store, name, branch, location):
                for field in fields:
                    part.check(field)
                self._parts.append((part, range(0, len(part) - (length - 1) * stride, every)))
        self._ends = list(accumulate(len(starts) for _, starts in self._parts))
        if not len(self):
            raise InputError(
                f"{store.path}: no window of {length} states {stride} frames apart in "
                f"{len(self.names)} samples"
            )

    def __getstate__(self) -> dict[str, Any]:
        kept = ("store", "names", "length", "nodes", "blocks", "stride", "schema", "dtype", "seed")
        return {key: getattr(self, key) for key in kept} | self._options

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def rows(self, index: Index) -> np.ndarray:
        """(n,) rising int64: the nodes of a window in an epoch."""
        epoch, i = _split(index, len(self))
        random = np.random.default_rng([self.seed, epoch, i])
        return draw(self._find(i)[0].rows, self.nodes, self.blocks, random)

    def _find(self, i: int) -> tuple[Unread, int]:
        k = bisect_right(self._ends, i)
        part, starts = self._parts[k]
        return part, starts[i - (self._ends[k] - len(starts))]

    def __getitem__(self, index: Index) -> NodeSet:
        _, i = _split(index, len(self))
        part, start = self._find(i)
        times = range(start, start + (self.length - 1) * self.stride + 1, self.stride)
        rows = self.rows(index)
        moving = part.moving_points(times, rows)
        out: dict[str, Any] = {table: {} for table in _TABLES}
        for field in self.schema:
            out[f"{field.role}s"][field.name] = self._cast(part.values(field, times, rows))
        if moving is not None:
            out["points"] = self._cast(moving)
        if part.times is not None:
            out["times"] = part.times[times.start : times.stop : self.stride][None]
        return NodeSet(
            pos=self._cast(part.points(rows) if moving is None else moving[:, 0]),
            node=torch.from_numpy(rows),
            weight=torch.full((len(rows),), part.rows / len(rows), dtype=self.dtype),
            window=torch.tensor([i]),
            **out,
        )

    def _cast(self, values: Tensor) -> Tensor:
        return values.to(self.dtype) if values.is_floating_point() else values


class GraphWindows(Dataset):
    """Windows on whole meshes, as graphs.

    Arguments:
        windows: what to read.
        graph: makes the graph of a mesh, once for each mesh and process: `node_graph`,
            `cell_graph`, or any function that can be sent to a process. Fields at points and
            cells must be where its nodes are.

    Raises:
        InputError: on reading, fields that are not at the graph's nodes.
    """

    def __init__(self, windows: Windows, graph: Callable[[Mesh], MeshGraph] = node_graph):
        self.windows, self.graph = windows, graph
        self._graphs: dict[tuple[str, int], MeshGraph] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"windows": self.windows, "graph": self.graph, "_graphs": {}}

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Index) -> WindowGraph:
        _, i = _split(index, len(self))
        window = self.windows.load(i)
        place = (window["name"], window["segment"])
        if place not in self._graphs:
            self._graphs[place] = self.graph(self.windows.mesh(*place))
        graph = self._graphs[place]
        out: dict[str, Any] = {table: {} for table in _TABLES}
        for field in self.windows.schema:
            values = window[f"{field.role}s"][field.name]
            if field.location != "global":
                values = _at_nodes(graph, values, field.location, field.name)
            out[f"{field.role}s"][field.name] = values
        pos = graph.pos
        if window["points"] is not None:
            out["points"] = _at_nodes(graph, window["points"], "point", "points")
            pos = out["points"][:, 0]
        if window["times"] is not None:
            out["times"] = window["times"][None]
        out |= {"window": torch.tensor([i]), "pos": pos.to(self.windows.dtype)}
        return WindowGraph.from_dict(graph.to_dict() | out)


def _at_nodes(graph: MeshGraph, values: Tensor, location: str, name: str) -> Tensor:
    """(n, L, c) or (n, c) at the nodes, of (L, N, c) or (N, c) where the field is."""
    here = "point" if "node_point" in graph else "cell"
    if location != here:
        raise InputError(f"field {name!r}: expected it at the {here}s, got one at a {location}")
    rows = values.transpose(0, 1).contiguous() if values.dim() == 3 else values
    return from_points(graph, rows) if here == "point" else rows


class _Order(Sampler):
    """(epoch, index) of all windows; an order of its own for every pass."""

    def __init__(self, count: int, shuffle: bool, seed: int):
        self.count, self.shuffle, self.seed, self.epoch = count, shuffle, seed, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = np.arange(self.count)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return iter([(epoch, int(i)) for i in order])


def loader(
    windows: NodeWindows | GraphWindows,
    size: int,
    *,
    shuffle: bool = True,
    workers: int = 0,
    seed: int = 0,
    drop_last: bool = False,
) -> DataLoader:
    """torch_geometric's loader of batches of windows: the same with any number of workers.

    Each pass draws nodes and order anew, from the seeds and the number of the pass. Workers are
    spawned, not forked, and stay from pass to pass.

    Arguments:
        windows: what to load.
        size: windows a batch.
        shuffle: in another order every pass.
        workers: processes that read ahead; 0: this one reads.
        seed: of the order.
        drop_last: leave out a last batch that is smaller.

    Raises:
        InputError: no such size, number of workers or seed.
    """
    size, workers = whole_number(size, "size"), whole_number(workers, "workers", 0)
    seed = whole_number(seed, "seed", 0)
    return DataLoader(
        windows,
        size,
        sampler=_Order(len(windows), shuffle, seed),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        drop_last=drop_last,
    )


def _split(index: Index, count: int) -> tuple[int, int]:
    epoch, i = index if isinstance(index, tuple) else (0, index)
    if not -count <= i < count:
        raise IndexError(f"window {i} is outside 0..{count - 1}")
    return epoch, i % count
