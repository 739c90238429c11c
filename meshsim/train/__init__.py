"""Training: recipe, loop, and the judgement of what came out."""

from meshsim.train.config import Config, read_config
from meshsim.train.evaluate import evaluate, evaluate_committee, evaluate_surrogate
from meshsim.train.loop import train

__all__ = [
    "Config",
    "evaluate",
    "evaluate_committee",
    "evaluate_surrogate",
    "read_config",
    "train",
]
