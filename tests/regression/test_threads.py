"""The number of threads of linear algebra changes no digit of a table."""

import subprocess
import sys
from typing import Any

import flat
import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

import dropreg as dr

_LOOK = """
from dropreg._utils import one_blas_thread
from threadpoolctl import threadpool_info

assert {one["num_threads"] for one in one_blas_thread(threadpool_info)()} == {1}
"""


@pytest.fixture(scope="module")
def record() -> dr.Record:
    model, (x, y) = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    data, elements = (x[:100], y[:100]), dr.elements(model)
    return flat.sample(model, data, elements, rows=1024, outcomes="loss", gradients=True)


@pytest.mark.parametrize("estimator", ["assisted", "gradient", "ols", "ridge", "marginal"])
def test_tables_are_the_same_on_one_and_two_threads(record: dr.Record, estimator: Any) -> None:
    tables = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            tables.append(dr.regress(record, estimator=estimator, interactions=True))
    first, second = tables
    pd.testing.assert_frame_equal(first.frame, second.frame, check_exact=True)
    pd.testing.assert_frame_equal(first.fidelity, second.fidelity, check_exact=True)
    np.testing.assert_array_equal(first.interactions.values, second.interactions.values)


def test_all_libraries_are_limited_whatever_is_imported_first() -> None:
    subprocess.run([sys.executable, "-c", _LOOK], check=True)
