"""Helpers that are independent of neural networks: argument checks, random numbers, files, hashes."""

# ruff: noqa: F401 (the names are for other packages)

from ._blas import one_blas_thread
from ._checks import (
    check_between,
    check_positive,
    check_seed,
    check_several,
    check_type,
    check_writable,
    concatenate_names,
    first_line,
    hidden,
    is_number,
    positive,
)
from ._draws import examples_of_rows, random_words, spread_rows
from ._files import is_leftover, read_json, write_atomically, write_json
from ._fingerprints import Versioned, check_identified, check_version, fingerprint, identify
from ._lazy import lazy_names
from ._moments import ROUNDING, Running
from ._origins import is_installed, keras_config, own_functions
from ._types import Array, BoolMasks
