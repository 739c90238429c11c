"""Network blocks on tensors."""

from meshsim.nn.message import MessageBlock, pass_messages
from meshsim.nn.mlp import MLP

__all__ = ["MLP", "MessageBlock", "pass_messages"]
