"""Graph transformer: attention whose mask is the mesh, widened as one likes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from meshsim.check import InputError
from meshsim.nn import MLP
from meshsim.nn.attention import Rotation, TransformerBlock, attend, rotation
from meshsim.nn.norm import RMSNorm
from meshsim.ops import segment_mean
from meshsim.ops.segment import expand_rowptr
from meshsim.ops.spectrum import laplacian_vectors
from meshsim.ops.widen import Mask, widen
from meshsim.rows import by_group, starts

if TYPE_CHECKING:
    from meshsim.graph import MeshGraph

# Rotations by positions, dropped with them.
_turns = WeakTensorKeyDictionary()


class GraphTransformer(nn.Module):
    """Encode-process-decode with masked attention (Garnier et al., arXiv:2508.18051, §3).

    An MLP and RMSNorm encode the nodes; `depth` times x ← x + Attention(RMSNorm x) over the mask
    and x ← x + GatedMLP(RMSNorm x); an MLP decodes. The mask is the mesh's edges and the nodes
    themselves, with what the options add (see `meshsim.ops.widen`). It normalises nothing: give
    it normalised inputs.

    Arguments:
        nodes_in: columns of `graph.x`.
        edges_in: columns of `graph.edge_attr`; they are read with `edge_bias` only.
        outputs: {field: components}.
        width, depth, heads: H, number of blocks, heads of each.
        expansion: the gated MLP is `expansion` H wide.
        hidden_layers: of the encoder and the decoder.
        window: K; nodes attend to all within K hops.
        rings: distances in hops; nodes attend to all exactly that far away.
        random_edges: random long edges for each mesh edge, drawn by `seed`.
        global_nodes: learned nodes of each graph that see all of it and are seen by all.
        self_edges: whether nodes attend to themselves.
        rotary: queries and keys turn with the coordinates, so that logits depend on differences
            of positions; a global node sits in the mean of its graph. Coordinates count as they
            are given, also across periodic boundaries.
        length: the unit of positions; 0 for the mean edge length of each graph, which parts of a
            mesh do not share: give a number to run on partitions.
        base: longest over shortest wavelength of the rotations.
        eigenvectors: how many Laplacian eigenvectors are inputs of the nodes.
        edge_bias: a linear map of a mesh edge's columns is added to its logits.
        gate: the attention's output is multiplied by a sigmoid of its input.

    Raises:
        InputError: no outputs, sizes below 1, heads that do not divide the width.

    >>> from types import SimpleNamespace as Graph
    >>> graph = Graph(x=torch.zeros(2, 5), pos=torch.tensor([[0., 0.], [1., 0.]]),
    ...               edge_index=torch.tensor([[1, 0], [0, 1]]))
    >>> net = GraphTransformer(5, 3, {"velocity": 2}, width=8, depth=2, heads=2)
    >>> net(graph)["mesh"]["velocity"].shape, net.hops
    (torch.Size([2, 2]), 2)
    """

    def __init__(
        self,
        nodes_in: int,
        edges_in: int,
        outputs: Mapping[str, int],
        *,
        width: int = 64,
        depth: int = 10,
        heads: int = 4,
        expansion: int = 3,
        hidden_layers: int = 3,
        window: int = 1,
        rings: Sequence[int] = (),
        random_edges: float = 0.0,
        seed: int = 0,
        global_nodes: int = 0,
        self_edges: bool = True,
        rotary: bool = True,
        length: float = 0.0,
        base: float = 100.0,
        eigenvectors: int = 0,
        edge_bias: bool = False,
        gate: bool = False,
    ):
        super().__init__()
        sizes = {"nodes_in": nodes_in, "edges_in": edges_in, "width": width, "depth": depth}
        sizes |= {"heads": heads, "expansion": expansion}
        for name, size in (*sizes.items(), *((f"outputs[{k}]", n) for k, n in outputs.items())):
            if size < 1:
                raise InputError(f"`{name}`: expected 1 or more, got {size}")
        others = {"length": length, "eigenvectors": eigenvectors, "window": window}
        others |= {"random_edges": random_edges, "global_nodes": global_nodes, "seed": seed}
        for name, number in others.items():
            if not number >= 0:
                raise InputError(f"`{name}`: expected 0 or more, got {number}")
        if any(ring < 1 for ring in rings):
            raise InputError(f"`rings`: expected distances of 1 or more, got {list(rings)}")
        if not base > 1:
            raise InputError(f"`base`: expected more than 1, got {base}")
        if not outputs:
            raise InputError("`outputs`: expected at least one field, got none")
        self.nodes_in, self.edges_in, self.outputs = nodes_in, edges_in, dict(outputs)
        self.width, self.depth, self.heads = width, depth, heads
        self.expansion, self.hidden_layers = expansion, hidden_layers
        self.mask: dict[str, Any] = {
            "window": window,
            "rings": list(rings),
            "random_edges": random_edges,
            "seed": seed,
            "global_nodes": global_nodes,
            "self_edges": self_edges,
        }
        self.rotary, self.length, self.base = rotary, length, base
        self.eigenvectors, self.edge_bias, self.gate = eigenvectors, edge_bias, gate
        ends: dict[str, Any] = {"width": width, "hidden_layers": hidden_layers, "norm": False}
        self.encode = MLP(nodes_in + eigenvectors, width, **ends)
        self.encode_norm = RMSNorm(width)
        self.hub = nn.Parameter(torch.randn(global_nodes, width)) if global_nodes else None
        self.bias = nn.Linear(edges_in, depth * heads) if edge_bias else None
        made = [TransformerBlock(width, heads, expansion, gate) for _ in range(depth)]
        self.blocks: Sequence[TransformerBlock] = nn.ModuleList(made)  # type: ignore[assignment]
        self.decode = MLP(width, sum(outputs.values()), **ends)

    @property
    def hops(self) -> int | None:
        """How many edges away a node's values can lie and still be felt; None for any number."""
        if self.mask["random_edges"] or self.mask["global_nodes"] or self.eigenvectors:
            return None
        return self.depth * max(self.mask["window"], *self.mask["rings"], 0)

    @property
    def arguments(self) -> dict[str, Any]:
        """What to call the constructor with to get this architecture again; plain data."""
        return {
            "nodes_in": self.nodes_in,
            "edges_in": self.edges_in,
            "outputs": dict(self.outputs),
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "expansion": self.expansion,
            "hidden_layers": self.hidden_layers,
            **self.mask,
            "rotary": self.rotary,
            "length": self.length,
            "base": self.base,
            "eigenvectors": self.eigenvectors,
            "edge_bias": self.edge_bias,
            "gate": self.gate,
        }

    def derived(self, graph: MeshGraph) -> dict[str, Tensor]:
        """What `forward` derives from the edges outside of torch; an exported program is given it.

        Returns:
            "mask" (2, E'), columns and rows of the mask, rising by row; "mask_edge" (E',), see
            `ops.widen.Mask`; "places" (N, eigenvectors).
        """
        ptr = _ptr(graph, graph.pos.shape[0])
        mask = widen(graph.edge_index, ptr, **self.mask)
        row = expand_rowptr(mask.rowptr, len(mask.col))
        out = {"mask": torch.stack([mask.col, row]), "mask_edge": mask.edge}
        if self.eigenvectors:
            out["places"] = laplacian_vectors(graph.edge_index, ptr, self.eigenvectors)
        return out

    def forward(self, graph: MeshGraph) -> dict[str, dict[str, Float[Tensor, "N c"]]]:
        """Predict every field at every node.

        Arguments:
            graph: with `x` (N, nodes_in) and `edge_index` (2, E) sorted by receiver; `pos` (N, D)
                for rotary positions, `edge_attr` (E, edges_in) for `edge_bias`. A single graph
                may bring what `derived` returns, a part of one the whole's `mean_edge`.

        Returns:
            {"mesh": {field: (N, components)}}.
        """
        self._check(graph.x, self.nodes_in, "x")
        n = graph.x.shape[0]
        ptr = _ptr(graph, n)
        given = getattr(graph, "derived", None)
        if given is None:
            mask = widen(graph.edge_index, ptr, **self.mask)
        else:
            mask = _given_mask(given, n + self.mask["global_nodes"])
        x = graph.x
        if self.eigenvectors:
            if given is None:
                places = laplacian_vectors(graph.edge_index, ptr, self.eigenvectors)
            else:
                places = given["places"]
            x = torch.cat([x, places.to(x)], 1)
        x = self.encode_norm(self._end(self.encode, x))  # (N, H)
        if self.hub is not None:
            x = torch.cat([x, self.hub.to(x.dtype).repeat(len(ptr) - 1, 1)])  # (N + B G, H)
        by = self._rotation(graph, ptr, x.dtype) if self.rotary else None
        x = attend(tuple(self.blocks), x, mask, by, self._biases(graph, mask))
        y = self._end(self.decode, x[:n])  # (N, sum of components)
        parts = y.split(list(self.outputs.values()), 1)
        return {"mesh": dict(zip(self.outputs, parts, strict=True))}

    def _biases(self, graph: MeshGraph, mask: Mask) -> Sequence[Tensor | None]:
        """What each block adds to its logits: (E', heads), 0 for entries that are no mesh edge."""
        if self.bias is None:
            return [None] * self.depth
        self._check(graph.edge_attr, self.edges_in, "edge_attr")
        rows = self._end(self.bias, graph.edge_attr)  # (E, depth heads)
        rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
        at = torch.where(mask.edge < 0, rows.shape[0] - 1, mask.edge)
        return rows.index_select(0, at).chunk(self.depth, 1)

    def _rotation(self, graph: MeshGraph, ptr: Int[Tensor, " B"], dtype: torch.dtype) -> Rotation:
        """Cosines and sines at the nodes, then at the global nodes; kept with the positions."""
        if torch.compiler.is_exporting():
            return self._turned(graph, ptr, dtype)
        options = (self.length, self.base, self.width // self.heads, self.mask["global_nodes"])
        versions = (graph.pos._version, graph.edge_index._version)
        key = (*versions, tuple(ptr.tolist()), dtype, *options)
        by_edges = _turns.setdefault(graph.pos, WeakTensorKeyDictionary())
        kept = by_edges.setdefault(graph.edge_index, {})
        if key not in kept:
            if len(kept) > 8:  # positions that are edited in place
                kept.clear()
            kept[key] = self._turned(graph, ptr, dtype)
        return kept[key]

    def _turned(self, graph: MeshGraph, ptr: Tensor, dtype: torch.dtype) -> Rotation:
        pos = graph.pos.detach()
        size = ptr.diff()
        mean = segment_mean(pos, ptr)  # (B, D)
        places = pos - mean.repeat_interleave(size, 0, output_size=pos.shape[0])
        whole = getattr(graph, "mean_edge", None)  # of the graph that this is a part of
        if self.length:
            places = places / self.length
        elif whole is not None:
            places = places / whole.to(pos).repeat_interleave(size, output_size=len(pos))[:, None]
        else:
            sender, receiver = graph.edge_index
            far = (pos[sender] - pos[receiver]).norm(dim=1)  # (E,)
            unit = segment_mean(far, torch.searchsorted(receiver.contiguous(), ptr))
            unit = unit.masked_fill(unit == 0, 1)  # (B,), 0 without edges
            places = places / unit.repeat_interleave(size, output_size=pos.shape[0])[:, None]
        hubs = pos.new_zeros(len(size) * self.mask["global_nodes"], pos.shape[1])
        cos, sin = rotation(torch.cat([places, hubs]), self.width // self.heads, self.base)
        return cos.to(dtype), sin.to(dtype)

    @staticmethod
    def _end(net: nn.Module, rows: Tensor) -> Tensor:
        # On a CPU the ends of the network stay exact: bfloat16 would hardly make them faster.
        low = torch.is_autocast_enabled(rows.device.type) and not rows.is_cpu
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=low):
            return net(rows)

    @staticmethod
    def _check(rows: Tensor, width: int, name: str) -> None:
        if rows.shape[-1] != width:
            raise InputError(f"`graph.{name}`: expected {width} columns, got {tuple(rows.shape)}")


def _ptr(graph: MeshGraph, n: int) -> Int[Tensor, " B"]:
    """(B + 1,): where the nodes of each graph of a batch begin."""
    ptr = getattr(graph, "ptr", None)
    if ptr is not None:
        return ptr
    return n * torch.arange(2, device=graph.edge_index.device)


def _given_mask(given: dict[str, Tensor], rows: int) -> Mask:
    """The mask that `derived` told of."""
    col, row = given["mask"]
    eperm, colptr = by_group(col, rows)
    mask_edge, graph = given["mask_edge"], row.new_zeros(rows)
    return Mask(starts(row.contiguous(), rows), col, colptr, eperm, mask_edge, graph)
