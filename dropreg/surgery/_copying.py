"""Copies of models, and running a model that is to stay as it is."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from .._utils import first_line
from ..errors import ModelError
from ..graph import all_layers, is_opaque, patched
from ..layers import rule_for
from ._zeros import HoldZeros


@contextmanager
def seeds_kept() -> Iterator[None]:
    """Leave Python's random numbers as they are: Keras takes seeds from them for layers that are made without one."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def refuse_subclassed(model: keras.Model, what: str) -> str:
    """Text of the error that a subclassed model cannot be `what`, such as "copied"."""
    return (
        f"model '{model.name}' ({type(model).__name__}) is a subclassed model, whose graph lies in Python code: it "
        f"cannot be {what}. Rebuild it as keras.Model(inputs, outputs)."
    )


@seeds_kept()
def copy_model(model: keras.Model) -> keras.Model:
    """A copy with the same structure, weights and held zeros, not compiled.

    Raises
    ------
    ModelError
        If the model is a subclassed one, or a layer cannot be made anew from its config.
    """
    if is_opaque(model):
        raise ModelError(refuse_subclassed(model, "copied"))
    compiled = [(layer, "compiled", False) for layer in all_layers(model) if isinstance(layer, keras.Model)]
    try:
        with patched(compiled):
            copied: Any = keras.models.clone_model(model)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"model '{model.name}' must have layers that can be made anew from their config, received the error "
            f"'{first_line(error)}': give their classes a get_config that names all arguments."
        ) from error
    copied.set_weights(model.get_weights())
    for layer in all_layers(copied):
        rule_for(layer).finish(layer)
    for old, new in zip(model.weights, copied.weights, strict=True):
        if isinstance(old.constraint, HoldZeros):
            new.constraint = old.constraint
    return copied


def seed_layers(model: keras.Model, seed: int) -> None:
    """Give every source of noise in a model a state that `seed` alone decides."""
    states = [variable for variable in model.variables if variable.name == "seed_generator_state"]
    for number, state in enumerate(states):
        state.assign(np.array([seed % 2**32, number], dtype=np.uint32))
