"""Architectures, one file each."""

from meshsim.models.graph_transformer import GraphTransformer
from meshsim.models.meshgraphnet import MeshGraphNet
from meshsim.models.moving_mesh import MovingMeshNet

__all__ = ["GraphTransformer", "MeshGraphNet", "MovingMeshNet"]
