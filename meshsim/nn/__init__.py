"""Network blocks on tensors."""

from meshsim.nn.message import MessageBlock
from meshsim.nn.mlp import MLP

__all__ = ["MLP", "MessageBlock"]
