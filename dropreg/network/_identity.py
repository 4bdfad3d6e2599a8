"""What identifies a run: the model, the elements, the data, the outcomes and the versions."""

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import groupby
from typing import Any

import numpy as np

from .._utils import concatenate_names, fingerprint, is_installed, keras_config, own_functions
from ..graph import Graph, Ref
from ._question import Question

_NO_EFFECT = ("_initializer", "_regularizer", "_constraint")
"""Endings of entries of a configuration that do not change what a trained layer computes."""
_OF_KERAS = {
    *("name", "trainable", "seed", "build", "quantize", "built", "autocast", "supports_jit", "activity_regularizer"),
    *("call_signature_parameters", "compiled", "loss", "optimizer", "steps_per_execution", "jit_compile"),
    *("unrolled_steps_per_execution", "train_function", "test_function", "predict_function", "history"),
    *("stop_training", "stop_predicting", "stop_evaluating", "inputs", "outputs"),
}
"""Attributes that Keras gives to layers and models, and entries of configurations, that do not matter either."""
_SENTENCES = {
    "model": "the model has another structure there",
    "weights": "the model has other weights there",
    "elements": "other elements were asked for there",
}


def identity_of(question: Question) -> dict[str, Any]:
    """Return what identifies the model, elements, data and outcomes of a question, as JSON values.

    Returns
    -------
    dict
        "model" : hash of the structure; "configuration" : of each layer, by name; "weights", "elements" : hashes;
        "data" : a hash for each part of the examples; "metrics" : a hash for each outcome, by name; "task", "output";
        "versions" : of the packages that compute.
    """
    from .. import __version__

    e = question.elements
    runs = [(*key, len(list(group))) for key, group in groupby(zip(e.layers, e.kinds, strict=True))]
    parts = [runs, e.indices, e.gates, e.inner_gates]
    packages = {name: version(name) for name in ("keras", "numpy", "tensorflow")}
    python = ".".join(platform.python_version_tuple()[:2])
    return {
        "model": e.signature,
        "configuration": _configuration(question.graph),
        "weights": _hash_of_arrays(question.model.get_weights()),
        "elements": fingerprint(parts),
        "data": question.examples.fingerprints(),
        "metrics": {outcome.name: fingerprint(outcome) for outcome in question.outcomes},
        "task": question.examples.task,
        "output": question.examples.output,
        "versions": {"dropreg": __version__, "python": python, **packages},
    }


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Return a clause for each setting that differs between a call and the files in its folder.

    Parameters
    ----------
    here, there : dict
        Settings as JSON values, among them those of `identity_of`.
    """
    return [
        clause
        for name, value in here.items()
        if name not in there or there[name] != value
        for clause in _clauses(name, value, there.get(name))
    ]


def _clauses(name: str, here: Any, there: Any) -> Iterator[str]:
    """Yield what differs in one setting."""
    if name in _SENTENCES:
        yield _SENTENCES[name]
    elif not isinstance(here, Mapping) or not isinstance(there, Mapping) or name == "design":
        yield _compared(name, here, there)
    elif name == "configuration":
        yield concatenate_names([*_layers(here, there)])
    elif name in ("data", "test_data"):
        parts = [part for part in here.keys() | there.keys() if here.get(part) != there.get(part)]
        yield f"the examples of `{name}` are others there ({', '.join(sorted(parts))})"
    elif name in ("metrics", "scorers"):
        what = "outcome" if name == "metrics" else "scorer"
        for key in (key for key in here if key in there and here[key] != there[key]):
            shown, shown_there = (side[key].rpartition(" ")[0] for side in (here, there))
            yield f"{what} '{key}' " + (
                f"is {shown_there} there and {shown} here"
                if shown != shown_there
                else "has other code or data there (if it gives the same values, it needs a `version`)"
            )
    else:
        for key in (key for key in here if here[key] != there.get(key)):
            yield _compared(key, here[key], there.get(key))


def _layers(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs in the configuration of layers."""
    for layer in dict.fromkeys([*here, *there]):
        mine, other = here.get(layer), there.get(layer)
        if mine is None or other is None:
            yield f"layer {layer} is only {'here' if other is None else 'there'}"
        elif mine != other:
            names = [name for name in dict.fromkeys([*mine, *other]) if mine.get(name) != other.get(name)]
            parts = (_compared(name, mine.get(name), other.get(name)) for name in names)
            yield f"layer {layer} has another configuration there: {', '.join(parts)}"


def _compared(name: str, here: Any, there: Any) -> str:
    if str(here).startswith("sha256:") or str(there).startswith("sha256:"):
        return f"{name} is another there"
    return f"{name} is {there} there and {here} here"


def _hash_of_arrays(arrays: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _configuration(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return what layers and operations compute beside their weights, by name and class, as JSON values."""
    import keras

    found: dict[str, dict[str, Any]] = {}
    named = {id(part.layer): graph.names[id(part.layer)] for part in graph.inside or ()}
    named |= {id(call.layer): call.name for call in graph.calls} | {id(graph.model): "model"}
    around = {id(call.layer): (call.name, call.layer) for call in graph.composites}
    for name, layer in (*around.values(), *([("model", graph.model)] if graph.whole else [])):
        found[f"'{name}' ({type(layer).__name__})"] = _config_of(layer)
    for call in graph.calls:
        for number, layer in enumerate(call.layers()):  # parts have names that Keras counts up
            name = f"'{named[id(layer)]}'" if id(layer) in named else f"part {number} of '{call.name}'"
            key = f"{name} ({type(layer).__name__})"
            if key not in found:
                found[key] = _config_of(layer) if isinstance(layer, keras.layers.Layer) else _attributes(layer)
        if isinstance(call.layer, keras.Model) and is_installed(type(call.layer)):  # its graph is not written out
            found[f"'{named[id(call.layer)]}' ({call.kind})"]["graph"] = _digest(call.layer.get_config())
        leaves = [leaf for leaf in keras.tree.flatten([call.args, call.kwargs]) if not isinstance(leaf, Ref)]
        if any(leaf is not None for leaf in leaves):
            config = found[f"'{named[id(call.layer)]}' ({call.kind})"]
            config["arguments"] = [*config.get("arguments", ()), [_plain(leaf) for leaf in leaves]]
    return json.loads(json.dumps(found, default=_digest))


def _config_of(layer: Any) -> dict[str, Any]:
    """Return the configuration of a layer, with the code of functions and classes of the user's."""
    import keras

    config = None if isinstance(layer, keras.Model) else keras_config(layer)  # that of a model is that of its layers
    if config is None and not isinstance(layer, keras.Model):
        config = _attributes(layer)
    config = {k: v for k, v in (config or {}).items() if k not in _OF_KERAS and not k.endswith(_NO_EFFECT)}
    config |= {name: _digest(function) for name, function in own_functions(layer).items()}
    if not is_installed(type(layer)):
        config = {**_attributes(layer), **config, "class": _digest(type(layer))}
    return config


def _attributes(layer: Any) -> dict[str, Any]:
    """Return the public attributes of a layer or an operation that are no layers, variables or other parts of Keras."""
    import keras

    parts = keras.Operation, keras.Variable, keras.random.SeedGenerator, keras.optimizers.Optimizer
    return {
        name: _plain(value)
        for name, value in vars(layer).items()
        if name[0] != "_"
        and name not in _OF_KERAS
        and not any(isinstance(leaf, parts) for leaf in keras.tree.flatten(value))
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | type(None)) else _digest(value)


def _digest(value: Any) -> str:
    return f"sha256:{fingerprint(value)}"
