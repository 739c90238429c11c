"""Learned simulation on meshes: a mesh goes in, a prediction comes back on the same mesh.

Public names are loaded when first used (PEP 562), so that `import meshsim` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Mesh": "mesh",
    "Cells": "mesh",
    "Boundary": "mesh",
    "Series": "series",
    "Sample": "sample",
    "read": "io",
    "write": "io",
    "node_graph": "graph",
    "cell_graph": "graph",
    "GraphTransformer": "models.graph_transformer",
    "MeshGraphNet": "models.meshgraphnet",
    "Field": "data",
    "Schema": "data",
    "Store": "data",
    "preprocess": "data",
    "Simulator": "simulator",
    "Surrogate": "surrogate",
    "Committee": "committee",
    "load": "loading",
    "train": "train",
    "render": "render",
    "ops": "ops",
}
_MODULES = {"train", "render", "ops"}

if TYPE_CHECKING:
    from meshsim import ops, render, train
    from meshsim.committee import Committee
    from meshsim.data import Field, Schema, Store, preprocess
    from meshsim.graph import cell_graph, node_graph
    from meshsim.io import read, write
    from meshsim.loading import load
    from meshsim.mesh import Boundary, Cells, Mesh
    from meshsim.models.graph_transformer import GraphTransformer
    from meshsim.models.meshgraphnet import MeshGraphNet
    from meshsim.sample import Sample
    from meshsim.series import Series
    from meshsim.simulator import Simulator
    from meshsim.surrogate import Surrogate

__all__ = [
    "Boundary",
    "Cells",
    "Committee",
    "Field",
    "GraphTransformer",
    "Mesh",
    "MeshGraphNet",
    "Sample",
    "Schema",
    "Series",
    "Simulator",
    "Store",
    "Surrogate",
    "cell_graph",
    "load",
    "node_graph",
    "ops",
    "preprocess",
    "read",
    "render",
    "train",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'meshsim' has no attribute {name!r}")
    module = import_module(f"meshsim.{_HOMES[name]}")
    return module if name in _MODULES else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
