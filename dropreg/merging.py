"""Merging: how the layers that consume removed elements are refitted."""

from .surgery import LeastSquares

__all__ = ["LeastSquares"]
