"""Rules of layers, with one file for each family of layers.

`register` adds a rule for a layer class of your own; `rule_for` returns the rule of a layer. A family with a kernel is
also listed in `_kernels`. `_rule` says what a rule is, `_common` has the rules that families share.
"""

# ruff: noqa: F401 (families register their rules; some names are for other packages)

from . import (
    _activation,
    _attention,
    _combine,
    _conv,
    _dense,
    _einsum,
    _embedding,
    _kerashub,
    _normalization,
    _operations,
    _preprocessing,
    _recurrent,
    _shape,
)
from ._activation import last_activation
from ._channels import FIXED, Channels, Labels, fixed
from ._common import Carry, LinearReader, Mix, Unknown, n_channels, positions, readout
from ._kernels import Kernel, kernel_of, register_kernels
from ._recurrent import RecurrentRule
from ._registry import register, rule_for
from ._remade import counts_of_heads
from ._resized import Resized, base_class, base_config, kerashub_part, resize
from ._rule import Cut, Kept, Moments, Rule, unchanged

__all__ = [
    "Carry",
    "Channels",
    "Cut",
    "Kernel",
    "Mix",
    "Rule",
    "Unknown",
    "fixed",
    "kernel_of",
    "n_channels",
    "positions",
    "register",
    "register_kernels",
    "rule_for",
]
