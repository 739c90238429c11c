"""A simulator's step as a program of torch's own operations: it runs without meshsim."""

from __future__ import annotations

import copy
import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._C import DispatchKey
from torch.export import Dim, ExportedProgram

from meshsim import native
from meshsim.check import WorkError, one_line
from meshsim.rollout import State
from meshsim.simulator_files import write_atomically
from meshsim.symmetry import own_columns

if TYPE_CHECKING:
    from meshsim.graph import MeshGraph
    from meshsim.simulator import Simulator

# What a program takes of every mesh; a model's `derived` adds to it. Rows are nodes but for these:
_MESH = ("pos", "edge_index", "edge_attr", "static", "free")
_ALONG = {
    "edge_index": (1, "edges"),
    "edge_attr": (0, "edges"),
    "mask": (1, "entries"),
    "mask_edge": (0, "entries"),
}


class _Step(nn.Module):
    """`Simulator.advance` on tensors alone."""

    def __init__(self, simulator: Simulator):
        super().__init__()
        self.simulator = simulator

    def forward(self, state: State, mesh: dict[str, Tensor]) -> tuple[State, State]:
        from meshsim.graph import MeshGraph

        graph = MeshGraph(**{name: mesh[name] for name in _MESH})
        graph.derived = {name: x for name, x in mesh.items() if name not in _MESH} or None
        return self.simulator.advance(graph, state)


def tensors(simulator: Simulator, graph: MeshGraph) -> dict[str, Tensor]:
    """What the exported program takes of a graph with all its static inputs."""
    derived = getattr(simulator.model, "derived", None)
    out = {name: getattr(graph, name) for name in _MESH}
    out["pos"] = out["pos"].to(torch.float64)
    return {**out, **(derived(graph) if callable(derived) else {})}


def export(simulator: Simulator, path: Path) -> ExportedProgram:
    """Trace a step, replace meshsim's operators by their references, and write the program.

    Arguments:
        simulator: any; it is exported in its precision, for the CPU.
        path: of the program, `.pt2`.

    Raises:
        WorkError: torch cannot trace it.
    """
    plain = copy.deepcopy(simulator).cpu().eval()
    plain.precision = "fp32"
    given = _example(plain)
    lengths = {name: Dim(name) for name in ("nodes", "edges", "entries")}
    dims = []
    for part in given:
        places = {name: _ALONG.get(name, (0, "nodes")) for name in part}
        dims.append({name: {at: lengths[of]} for name, (at, of) in places.items()})
    try:
        program = torch.export.export(_Step(plain), given, dynamic_shapes=tuple(dims))
        program = program.run_decompositions(_references())
    except Exception as error:
        raise WorkError(f"this simulator cannot be exported: {one_line(error)}") from error
    ours = {str(n.target) for n in program.graph.nodes if "meshsim" in str(n.target)}
    if ours:
        raise WorkError(f"the program still needs meshsim: {', '.join(sorted(ours))}")
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_atomically(path, buffer.getvalue())
    return program


def _references() -> dict[Any, Any]:
    """{operator: its torch reference}; torch's own operations stay as they are."""
    table: dict[Any, Any] = {}
    for name in native.defined():
        op = getattr(torch.ops.meshsim, name).default
        table[op] = partial(op._op_dk, DispatchKey.CompositeExplicitAutograd)
    return table


def _example(simulator: Simulator) -> tuple[State, dict[str, Tensor]]:
    """Random inputs of the right widths on a small graph: a ring with spokes."""
    from meshsim.graph import MeshGraph, NodeType

    n, dtype, generator = 7, simulator.dtype, torch.Generator().manual_seed(0)

    def random(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator).to(dtype)

    ring = torch.arange(n)
    pairs = torch.cat([torch.stack([ring, (ring + k) % n], 1) for k in (1, 2)])
    sender, receiver = torch.cat([pairs, pairs.flip(1)]).T
    order = (receiver * n + sender).argsort()
    columns = len(simulator.normaliser.mean("edge_attr"))
    width = int(NodeType.SIZE) + own_columns(simulator)
    graph = MeshGraph(
        pos=random(n, columns - 1),
        edge_index=torch.stack([sender, receiver])[:, order],
        edge_attr=random(len(order), columns),
        static=random(n, width),
        free=torch.ones(n, len(simulator.schema.states), dtype=dtype),
    )
    state = {f.name: random(n, f.components) for f in simulator.schema.states}
    return state, tensors(simulator, graph)
