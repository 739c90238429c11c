"""Operators on tensors, each an entry of torch's dispatcher with a torch reference.

A compiled kernel is picked up by the dispatcher when one is loaded: see `meshsim.native`.
"""

from meshsim import native
from meshsim.ops.anchors import anchor_blocks
from meshsim.ops.attention import csr_attention
from meshsim.ops.edges import edge_block, edge_block_
from meshsim.ops.locate import interpolate, locate
from meshsim.ops.mlp_rows import mlp_rows
from meshsim.ops.neighbors import knn, radius
from meshsim.ops.nodes import node_block
from meshsim.ops.order import morton_order, rcm_order
from meshsim.ops.sampling import farthest_points
from meshsim.ops.scatter import (
    scatter,
    scatter_add,
    scatter_max,
    scatter_mean,
    scatter_min,
    scatter_mul,
    scatter_sum,
)
from meshsim.ops.scatter_composite import (
    scatter_log_softmax,
    scatter_logsumexp,
    scatter_softmax,
    scatter_std,
)
from meshsim.ops.scatter_segments import (
    gather_coo,
    gather_csr,
    segment_add_coo,
    segment_add_csr,
    segment_coo,
    segment_csr,
    segment_max_coo,
    segment_max_csr,
    segment_mean_coo,
    segment_mean_csr,
    segment_min_coo,
    segment_min_csr,
    segment_sum_coo,
    segment_sum_csr,
)
from meshsim.ops.segment import (
    segment_logsumexp,
    segment_max,
    segment_mean,
    segment_min,
    segment_softmax,
    segment_sum,
)
from meshsim.ops.tables import cells_to_edges, cells_to_faces
from meshsim.ops.tokens import token_block
from meshsim.ops.widen import widen

__all__ = [
    "anchor_blocks",
    "cells_to_edges",
    "cells_to_faces",
    "csr_attention",
    "edge_block",
    "edge_block_",
    "farthest_points",
    "gather_coo",
    "gather_csr",
    "interpolate",
    "knn",
    "locate",
    "mlp_rows",
    "morton_order",
    "node_block",
    "radius",
    "rcm_order",
    "scatter",
    "scatter_add",
    "scatter_log_softmax",
    "scatter_logsumexp",
    "scatter_max",
    "scatter_mean",
    "scatter_min",
    "scatter_mul",
    "scatter_softmax",
    "scatter_std",
    "scatter_sum",
    "segment_add_coo",
    "segment_add_csr",
    "segment_coo",
    "segment_csr",
    "segment_logsumexp",
    "segment_max",
    "segment_max_coo",
    "segment_max_csr",
    "segment_mean",
    "segment_mean_coo",
    "segment_mean_csr",
    "segment_min",
    "segment_min_coo",
    "segment_min_csr",
    "segment_softmax",
    "segment_sum",
    "segment_sum_coo",
    "segment_sum_csr",
    "token_block",
    "widen",
]

native.load()
