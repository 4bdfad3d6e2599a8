"""Everything that dropreg knows about kinds of layers, one module a family.

`register` adds rules for a layer of your own; `rule_for` finds the rule for a layer.
"""

from . import (
    activation,
    attention,
    combine,
    conv,
    dense,
    embedding,
    normalization,
    preprocessing,
    recurrent,
    shape,
)
from .base import Carry, Mix, Unknown, register, rule_for
from .rule import Rule

__all__ = [
    "Carry",
    "Mix",
    "Rule",
    "Unknown",
    "activation",
    "attention",
    "combine",
    "conv",
    "dense",
    "embedding",
    "normalization",
    "preprocessing",
    "recurrent",
    "register",
    "rule_for",
    "shape",
]
