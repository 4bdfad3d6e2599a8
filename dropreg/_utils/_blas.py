"""Limit the number of threads of linear algebra."""

from threadpoolctl import ThreadpoolController

one_blas_thread = ThreadpoolController().wrap(limits=1, user_api="blas")
"""Decorator that runs BLAS on one thread: on small blocks of rows, several threads would mostly wait for each other."""
