"""Graphs of meshes, as torch_geometric data. The one package that loads torch_geometric."""

from meshsim.graph.cells import cell_graph
from meshsim.graph.hierarchy import Level, hierarchy, level_of
from meshsim.graph.mesh_graph import (
    MeshGraph,
    NodeType,
    batch,
    from_points,
    rowptr,
    to_points,
    unbatch,
)
from meshsim.graph.nodes import guess_node_type, node_graph
from meshsim.graph.partition import Part, assemble, partition
from meshsim.graph.periodic import Periodic

__all__ = [
    "Level",
    "MeshGraph",
    "NodeType",
    "Part",
    "Periodic",
    "assemble",
    "batch",
    "cell_graph",
    "from_points",
    "guess_node_type",
    "hierarchy",
    "level_of",
    "node_graph",
    "partition",
    "rowptr",
    "to_points",
    "unbatch",
]
