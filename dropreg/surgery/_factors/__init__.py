"""Write layers as products of two, and multiply them back.

`_factorize` finds the directions from the second moments in `_moments`, `_matrices` turns kernels into matrices and
matrices into layers, `_rewrite` builds the model, `_multiply` is the inverse.
"""

from ._factorize import Factorized, factorize
from ._matrices import is_kernel_layer, why_no_matrix
from ._moments import input_moments
from ._multiply import multiply_back

__all__ = ["Factorized", "factorize", "input_moments", "is_kernel_layer", "multiply_back", "why_no_matrix"]
