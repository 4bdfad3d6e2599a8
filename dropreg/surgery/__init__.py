"""Build physically smaller models: cut layers, merge, hold zeros, measure sizes and latency.

`_cut` removes what a selection drops, by a `_plan` and `_rebuild`; `_merging` refits the layers that consume it.
`_factors` writes layers as products of two. `_storage` packs a model into a small file.
`_export` writes files of other formats.
"""

from ._compare_exports import compare_exports
from ._compiling import compile_like
from ._copying import copy_model, seed_layers
from ._cut import check_can_cut, cut
from ._export import Exported, export
from ._factors import Factorized, factorize, multiply_back
from ._holding import Hold, settle
from ._latency import measure_latency
from ._merging import LeastSquares, resolve_merge
from ._original import Original, trace_original
from ._pruned import OnBlocked, Pruned
from ._rounding import Rounder, Rounding, kernels_of, quantize, with_learning
from ._storage import Packed, pack, unpack
from ._zeros import HoldZeros, as_array, hold_at, hold_zeros, kernel_masks

__all__ = [
    "Exported",
    "Factorized",
    "Hold",
    "HoldZeros",
    "LeastSquares",
    "OnBlocked",
    "Original",
    "Packed",
    "Pruned",
    "Rounder",
    "Rounding",
    "as_array",
    "check_can_cut",
    "compare_exports",
    "compile_like",
    "copy_model",
    "cut",
    "export",
    "factorize",
    "hold_at",
    "hold_zeros",
    "kernel_masks",
    "kernels_of",
    "measure_latency",
    "multiply_back",
    "pack",
    "quantize",
    "resolve_merge",
    "seed_layers",
    "settle",
    "trace_original",
    "unpack",
    "with_learning",
]
