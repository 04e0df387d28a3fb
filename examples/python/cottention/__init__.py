"""Cosine attention for PyTorch and NumPy: the kernels of cottention, compiled on first use. docs/python.md."""
from .compile import CompilerError
from .functional import State, attention, step
from .modules import CosineAttention, DecodingState

__all__ = ["CompilerError", "CosineAttention", "DecodingState", "State", "attention", "step"]
