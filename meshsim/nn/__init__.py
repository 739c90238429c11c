"""Network blocks on tensors."""

from meshsim.nn.attention import GatedMLP, MaskedAttention, TransformerBlock, rotate, rotation
from meshsim.nn.message import MessageBlock, pass_messages
from meshsim.nn.mlp import MLP
from meshsim.nn.norm import RMSNorm

__all__ = [
    "MLP",
    "GatedMLP",
    "MaskedAttention",
    "MessageBlock",
    "RMSNorm",
    "TransformerBlock",
    "pass_messages",
    "rotate",
    "rotation",
]
