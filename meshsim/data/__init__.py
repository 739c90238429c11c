"""Field schema, the store on disk, statistics, windows for training, preprocessing."""

from typing import TYPE_CHECKING, Any

from meshsim.data.options import Options
from meshsim.data.options import read_options as read_preprocess_config
from meshsim.data.preprocessing import Report, estimate, find_sources, preprocess
from meshsim.data.schema import Field, Schema
from meshsim.data.sources import Source
from meshsim.data.statistics import Moments, Normaliser, field_moments, merge_moments, rate_moments
from meshsim.data.store import Store
from meshsim.data.windows import Windows

if TYPE_CHECKING:
    from meshsim.data.loading import GraphWindows, NodeSet, NodeWindows, WindowGraph, loader

_LOADING = ("GraphWindows", "NodeSet", "NodeWindows", "WindowGraph", "loader")

__all__ = [
    "Field",
    "GraphWindows",
    "Moments",
    "NodeSet",
    "NodeWindows",
    "Normaliser",
    "Options",
    "Report",
    "Schema",
    "Source",
    "Store",
    "WindowGraph",
    "Windows",
    "estimate",
    "field_moments",
    "find_sources",
    "loader",
    "merge_moments",
    "preprocess",
    "rate_moments",
    "read_preprocess_config",
]


def __getattr__(name: str) -> Any:
    if name not in _LOADING:  # torch_geometric takes two seconds to load
        raise AttributeError(f"module 'meshsim.data' has no attribute {name!r}")
    from meshsim.data import loading

    return getattr(loading, name)
