"""The number of threads of linear algebra."""

from threadpoolctl import ThreadpoolController

one_blas_thread = ThreadpoolController().wrap(limits=1, user_api="blas")
"""Decorator: BLAS runs on one thread, because on blocks of rows several wait for each other more than they work."""
