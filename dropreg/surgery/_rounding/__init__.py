"""Kernels with few different values: `_quantize` rounds a model, `_sequential` one matrix."""

from ._quantize import Rounder, Rounding, kernels_of, quantize, with_learning

__all__ = ["Rounder", "Rounding", "kernels_of", "quantize", "with_learning"]
