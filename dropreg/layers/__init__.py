"""Everything that dropreg knows about kinds of layers, one module a family.

`register` adds rules for a layer of your own; `rule_for` finds the rule for a layer.
"""

from . import activation, combine, conv, dense, normalization, shape
from .base import Carry, Mix, Rule, Unknown, register, rule_for

__all__ = [
    "Carry",
    "Mix",
    "Rule",
    "Unknown",
    "activation",
    "combine",
    "conv",
    "dense",
    "normalization",
    "register",
    "rule_for",
    "shape",
]
