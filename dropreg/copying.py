"""Copies of models, and running a model that is to stay as it is."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .compiled import compiled
from .data import Examples
from .errors import ModelError, first_line
from .graph import all_layers, is_opaque, patched, trace_graph
from .layers.base import rule_for
from .zeros import HoldZeros

BATCH = 500
"""Examples of a forward pass."""
_FEW = 2
"""So many runs end sooner as they are than a graph is made for them."""
_SMALL = 1 << 14
"""Numbers in the inputs of these; a run as it is holds all activations until it ends, a graph what it still needs."""


@contextmanager
def seeds_kept() -> Iterator[None]:
    """Leave Python's random numbers as they are: Keras takes seeds from them for layers that are made without one."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


@seeds_kept()
def copy_model(model: keras.Model) -> keras.Model:
    """A copy with the same structure, weights and held zeros, not compiled.

    Raises
    ------
    ModelError
        If the model is a subclassed one, or a layer cannot be made anew from its config.
    """
    if is_opaque(model):
        raise ModelError(
            f"model '{model.name}' ({type(model).__name__}) is a subclassed model, whose graph lies in Python code: it "
            "cannot be copied. Rebuild it as keras.Model(inputs, outputs)."
        )
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


def call_outputs(model: keras.Model, inputs: Sequence[Any], *, training: bool) -> list[Any]:
    """The model's outputs for one tensor an input; a subclassed model is called for inference alone."""
    if is_opaque(model):
        return trace_graph(model).calls[0].run(inputs)
    pack: Any = keras.tree.pack_sequence_as
    arranged = inputs[0] if isinstance(model, keras.Sequential) else pack(model.input, list(inputs))
    return keras.tree.flatten(model(arranged, training=training))


def call_model(model: keras.Model, inputs: Sequence[Any], *, training: bool, output: int = 0) -> Any:
    """One of the model's outputs for one tensor an input."""
    return call_outputs(model, inputs, training=training)[output]


def traced(function: Callable[..., Any], *arrays: Any, runs: int | None = None) -> Callable[..., Any]:
    """`function` as a graph for arrays or tensors like these, lists of them included, with any number of rows.

    As it is where it will run so few times (`runs`, if that is known) on so few numbers that a graph would not pay.
    """
    if runs is not None and runs <= _FEW and sum(math.prod(x.shape) for x in tf.nest.flatten(arrays)) <= _SMALL:
        return function
    specs: Any = tf.nest.map_structure(lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), arrays)
    return compiled(function, specs).get_concrete_function()


def run_model(model: keras.Model, examples: Examples) -> npt.NDArray[np.float32]:
    """The measured output (n_examples, ..., n_outputs) of a model that is left as it is."""

    def forward(inputs: list[Any]) -> Any:
        with keras.StatelessScope(collect_losses=True):
            return tf.cast(call_model(model, inputs, training=False, output=examples.output), tf.float32)

    starts = range(0, len(examples), BATCH)
    run = traced(forward, list(examples.inputs), runs=len(starts))
    parts = [run([tf.convert_to_tensor(x[k : k + BATCH]) for x in examples.inputs]).numpy() for k in starts]
    return examples.check_outputs(np.concatenate(parts), model.name)
