"""Compile a new model like the model that it was made from."""

import warnings
from typing import Any

import keras

from .._utils import first_line
from ..graph import compile_settings, schedule_of
from ..layers import kerashub_part

_BY_OUTPUT = ("loss", "loss_weights", "metrics", "weighted_metrics")


def compile_like(model: keras.Model, original: keras.Model) -> None:
    """Compile `model` with the optimizer, loss, metrics and weights of `original`, unless that is not compiled.

    The optimizer and the metrics are new ones of the same configuration. Where one cannot be rebuilt from its
    configuration, the model is not compiled, with a warning.
    """
    settings = compile_settings(original)
    if not settings:
        return
    old, new = (getattr(each, "output_names", []) for each in (original, model))  # a Sequential model has none
    names: dict[str, str] = dict(zip(old, new, strict=False))
    settings |= {key: _renamed(settings[key], names) for key in _BY_OUTPUT}
    try:
        settings["optimizer"] = None if original.optimizer is None else _fresh_optimizer(original.optimizer)
        for key in ("metrics", "weighted_metrics"):
            settings[key] = keras.tree.map_structure(_fresh_metric, settings[key])
        sampler = getattr(original, "sampler", None)  # of text, in KerasHub
        if sampler is not None and hasattr(model, "sampler"):
            settings["sampler"] = type(sampler).from_config(sampler.get_config())
    except (TypeError, ValueError, NotImplementedError) as error:
        warnings.warn(
            f"the smaller model is not compiled, because an optimizer or metric of model '{original.name}' cannot be "
            f"rebuilt from its config ({first_line(error)}): compile it before you evaluate or train it.",
            stacklevel=2,
        )
        return
    model.compile(**settings)
    if model.optimizer is not None and kerashub_part(model) != "task":  # which is loaded with a new optimizer
        model.optimizer.build(model.trainable_variables)  # a saved model cannot be loaded without its variables


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """Return `value`, which may be a dict by the original's outputs, by the names of the new model's outputs."""
    return {names.get(name, name): entry for name, entry in value.items()} if isinstance(value, dict) else value


def _fresh_optimizer(optimizer: Any) -> Any:
    config, schedule = optimizer.get_config(), schedule_of(optimizer)
    return type(optimizer).from_config(config if schedule is None else {**config, "learning_rate": schedule})


def _fresh_metric(metric: Any) -> Any:
    return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric
