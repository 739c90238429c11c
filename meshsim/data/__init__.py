"""Field schema, the store on disk, statistics, windows for training, preprocessing."""

from meshsim.data.options import Options
from meshsim.data.options import read_options as read_preprocess_config
from meshsim.data.preprocessing import Report, estimate, find_sources, preprocess
from meshsim.data.schema import Field, Schema
from meshsim.data.sources import Source
from meshsim.data.statistics import Moments, Normaliser, field_moments, merge_moments, rate_moments
from meshsim.data.store import Store
from meshsim.data.windows import Windows

__all__ = [
    "Field",
    "Moments",
    "Normaliser",
    "Options",
    "Report",
    "Schema",
    "Source",
    "Store",
    "Windows",
    "estimate",
    "field_moments",
    "find_sources",
    "merge_moments",
    "preprocess",
    "rate_moments",
    "read_preprocess_config",
]
