"""Write layers as products of two, and multiply them back.

`_factorize` finds the directions from the second moments in `_moments`, `_matrices` turns kernels into matrices and
matrices into layers, `_rewrite` builds the model, `_multiply` is the inverse.
"""

from ._factorize import Factorized, factorize
from ._multiply import multiply_back

__all__ = ["Factorized", "factorize", "multiply_back"]
