"""Rules for families of layers: one file for each family.

`register` adds a rule for a layer of your own; `rule_for` finds the rule of a layer.
"""

from . import (  # noqa: F401 (their rules register themselves)
    _activation,
    _attention,
    _combine,
    _conv,
    _dense,
    _embedding,
    _normalization,
    _preprocessing,
    _recurrent,
    _shape,
)
from ._channels import Channels, Labels, fixed
from ._common import Carry, LinearReader, Mix, Unknown, n_channels, positions, readout
from ._kernels import kernel_of
from ._recurrent import RecurrentRule
from ._registry import register, rule_for
from ._rule import Cut, Kept, Moments, Rule, unchanged

__all__ = [
    "Carry",
    "Channels",
    "Cut",
    "Kept",
    "Labels",
    "LinearReader",
    "Mix",
    "Moments",
    "RecurrentRule",
    "Rule",
    "Unknown",
    "fixed",
    "kernel_of",
    "n_channels",
    "positions",
    "readout",
    "register",
    "rule_for",
    "unchanged",
]
