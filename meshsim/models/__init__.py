"""Architectures, one file each."""

from meshsim.models.graph_transformer import GraphTransformer
from meshsim.models.meshgraphnet import MeshGraphNet

__all__ = ["GraphTransformer", "MeshGraphNet"]
