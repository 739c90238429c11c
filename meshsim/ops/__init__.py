"""Operators on tensors, each an entry of torch's dispatcher with a torch reference.

A compiled kernel is picked up by the dispatcher when one is loaded: see `meshsim.native`.
"""

from meshsim.ops.segment import (
    segment_logsumexp,
    segment_max,
    segment_mean,
    segment_min,
    segment_softmax,
    segment_sum,
)

__all__ = [
    "segment_logsumexp",
    "segment_max",
    "segment_mean",
    "segment_min",
    "segment_softmax",
    "segment_sum",
]
