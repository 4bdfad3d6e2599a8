"""Outputs of layers with kernels, which can be rounded."""

from typing import TYPE_CHECKING

import numpy as np

from ._gates import InnerGate
from ._replacements import Quantized
from ._table import Choice, Found, found
from ._weights import kernels

if TYPE_CHECKING:
    import keras


def find(model: "keras.Model", choice: Choice, replacement: Quantized) -> Found:
    """Find the outputs of layers with a kernel, one element for each layer; they are rounded where dropped."""
    owners = {number: owner for number, _, _, _, owner in kernels(model)}
    chosen = {number: owner for number, owner in owners.items() if choice.takes(owner)}
    gates = tuple(
        InnerGate("rounding", number, np.array([column]), replacement=replacement)
        for column, number in enumerate(chosen)
    )
    names, zeros = list(chosen.values()), [0] * len(chosen)
    return found(names, ["activation"] * len(chosen), zeros, zeros, known=owners.values(), inner_gates=gates)
