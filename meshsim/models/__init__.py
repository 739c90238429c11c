"""Architectures, one file each."""

from meshsim.models.meshgraphnet import MeshGraphNet

__all__ = ["MeshGraphNet"]
