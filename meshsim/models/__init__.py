"""Architectures, one file each."""

from meshsim.models.anchored import AnchoredTransformer
from meshsim.models.coral import CORAL
from meshsim.models.enf2enf import ENF2ENF
from meshsim.models.ensemble import Ensemble, GraphEnsemble
from meshsim.models.graph_transformer import GraphTransformer
from meshsim.models.mario import MARIO
from meshsim.models.meshgraphnet import MeshGraphNet
from meshsim.models.moving_mesh import MovingMeshNet
from meshsim.models.point_mlp import PointMLP

__all__ = [
    "CORAL",
    "ENF2ENF",
    "MARIO",
    "AnchoredTransformer",
    "Ensemble",
    "GraphEnsemble",
    "GraphTransformer",
    "MeshGraphNet",
    "MovingMeshNet",
    "PointMLP",
]
