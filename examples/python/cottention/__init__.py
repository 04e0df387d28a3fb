"""Cosine attention for PyTorch and NumPy: the kernels of cottention, compiled on first use. docs/python.md."""
from .compile import CompilerError
from .functional import State, attention, step

__all__ = ["CompilerError", "State", "attention", "step"]
