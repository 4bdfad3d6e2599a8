"""Laws over small random Functional models.

``DROPREG_MODELS=500 python -m pytest tests/laws/test_random_models.py`` draws 500 of them in place of 20.
"""

import math
import os
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import own_layers as own
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from random_models import ROWS, Drawn, random_models, randomize

import dropreg as dr
from dropreg.element._keep import largest_fraction
from dropreg.errors import DropregError, ModelError
from dropreg.graph import Call, all_layers, trace_graph
from dropreg.layers import Carry
from dropreg.layers import _registry as registry
from dropreg.network import MaskedNetwork

MODELS = int(os.environ.get("DROPREG_MODELS", "20"))
A_PART = 10
"""Models of one test: hypothesis varies what it has drawn before only after ten of them."""
KINDS: tuple[Any, ...] = (
    *("neurons", "neurons", "neurons", "weights", "embeddings", "heads", "layers", "branches"),
    *(["neurons", "embeddings", "heads"], ["layers", "neurons"]),
)
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "mixed_bfloat16": 0.1}
"""Rounding, relative to the largest output."""


def predicted(drawn: Drawn) -> list[np.ndarray]:
    quiet: Any = 0
    inputs = drawn.inputs if len(drawn.inputs) > 1 else drawn.inputs[0]
    return [np.asarray(array, np.float64) for array in keras.tree.flatten(drawn.model.predict(inputs, verbose=quiet))]


def masked(drawn: Drawn, elements: dr.Elements, masks: np.ndarray) -> list[np.ndarray]:
    """All outputs of the masked network."""
    n_outputs = len(drawn.model.outputs)
    return [
        np.asarray(MaskedNetwork(drawn.model, elements, k)(drawn.inputs, masks), np.float64) for k in range(n_outputs)
    ]


def assert_close(found: list[np.ndarray], expected: list[np.ndarray], dtype: str, law: str) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape, law
        allowed = TOLERANCE[dtype] * max(np.abs(other).max(), 1e-3)
        np.testing.assert_allclose(one, other, rtol=0, atol=allowed, err_msg=law)


def names_a_layer(model: keras.Model, text: str) -> bool:
    names = {layer.name for layer in all_layers(model)}
    return any(part in names for quoted in re.findall(r"'([^']+)'", text) for part in re.split(r"[/.\[]", quoted))


def elements_of(drawn: Drawn, kind: Any) -> dr.Elements | None:
    """The elements of a kind; None where there are none, which the error says with the reasons."""
    try:
        return dr.elements(drawn.model, kind)
    except ModelError as error:
        if "that can be dropped" not in str(error):
            raise
        return None


def selection_of(elements: dr.Elements, number: int) -> dr.Selection:
    """A random selection, of units that leaves one in every layer."""
    if {"layer", "branch"}.intersection(elements.kinds):
        chosen = np.flatnonzero(np.random.default_rng(number).random(len(elements)) < 0.5)
        return dr.Selection.dropping(elements, chosen)
    fraction = (0.3, 0.5, 0.7)[number % 3]
    return dr.Selection.random(elements, min(fraction, largest_fraction(elements, 1)), seed=number)


def check_kept(drawn: Drawn, elements: dr.Elements, original: list[np.ndarray]) -> None:
    everything = np.ones((1, len(elements)), bool)
    assert_close(masked(drawn, elements, everything), original, drawn.dtype, "all kept equals predict")


def check_removed(drawn: Drawn, selection: dr.Selection) -> bool:
    """Whether the selection can be removed; then masked equals shrunk, also where rows have other masks."""
    try:
        small = dr.remove(drawn.model, selection)
    except DropregError as error:
        if not names_a_layer(drawn.model, str(error)):
            raise AssertionError("refused by name") from error
        return False
    rows = np.repeat(selection.kept[np.newaxis], 1 if selection.elements.one_mask_a_batch else ROWS, axis=0)
    rows[1::2] = True
    found = masked(drawn, selection.elements, rows)
    shrunk = keras.tree.flatten(small.model(drawn.inputs if len(drawn.inputs) > 1 else drawn.inputs[0], training=False))
    every = slice(None, None, 2 if len(rows) > 1 else 1)
    found, shrunk = [one[every] for one in found], [np.asarray(one, np.float64)[every] for one in shrunk]
    assert_close(found, shrunk, drawn.dtype, "masked equals shrunk")
    return True


def unaccounted(drawn: Drawn, elements: dr.Elements) -> list[str]:
    """Layers with weights that are no element's, lose no weights with elements, and are not named as left out."""
    graph = trace_graph(drawn.model)
    named = {layer for tied in elements.members for layer, _ in tied} | {*elements.followers, *dict(elements.left_out)}
    layers = {id(call.layer): call.layer for call in graph.calls if getattr(call.layer, "weights", ())}
    parts = {key: {graph.names.get(id(part)) for part in all_layers(layer)} for key, layer in layers.items()}
    return [graph.names[key] for key, names in parts.items() if named.isdisjoint(names)]


def state_of(model: Any) -> dict[str, Any]:
    """What of a model must not change."""
    return {
        "weights": [array.tobytes() for array in model.get_weights()],
        "config": model.get_config(),
        "calls": ["call" in vars(layer) for layer in all_layers(model)],
        "nodes": [len(layer._inbound_nodes) for layer in all_layers(model)],
    }


def check(drawn: Drawn, kind: Any, number: int) -> str:
    """Check all laws for a model and a kind; says whether a selection was removed or refused."""
    original, before = predicted(drawn), state_of(drawn.model)
    elements, outcome = elements_of(drawn, kind), "no elements"
    if elements is not None:
        missing = [] if kind == "weights" else unaccounted(drawn, elements)
        assert not missing, f"every layer is an element's or named as left out: {missing}"
        check_kept(drawn, elements, original)
        outcome = "removed" if check_removed(drawn, selection_of(elements, number)) else "refused"
    after = state_of(drawn.model)
    assert not [part for part in before if before[part] != after[part]], "the caller's model is unchanged"
    return outcome


def search(number: int, models: int, kinds: tuple[Any, ...], only: frozenset[str] = frozenset()) -> None:
    """Check the laws for random models, drawn with the seed `number`; where one fails, a small one is looked for."""
    phases = (Phase.generate,) if only else (Phase.generate, Phase.shrink)
    options: dict[str, Any] = {"suppress_health_check": list(HealthCheck), "report_multiple_bugs": False}

    @seed(number)
    @settings(max_examples=models, derandomize=False, phases=phases, **options)
    @given(random_models(only=only), st.sampled_from(kinds), st.integers(0, 99))
    def one(drawn: Drawn, kind: Any, number: int) -> None:
        check(drawn, kind, number)

    one()


@pytest.mark.filterwarnings("ignore:.*does not support masking", "ignore:(.|\\n)*softmax over axis")
@pytest.mark.parametrize("part", range(math.ceil(MODELS / A_PART)))
def test_laws_of_random_models(part: int) -> None:
    search(part, A_PART, KINDS)


class Unscaled(Carry):
    """A wrong rule: it forgets the scale of the kept channels."""

    def cut(self, call: Any, kept_in: Any, kept_out: Any) -> dr.layers.Cut:
        cut = super().cut(call, kept_in, kept_out)
        return dr.layers.Cut(cut.config, [np.ones_like(weight) for weight in cut.weights])


def forget_scales(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(registry._RULES, own.Scaled, Unscaled())


def inherit_by_class(patch: pytest.MonkeyPatch) -> None:
    """A subclass has the rule of its class, whatever it overrides."""

    def inherited(kind: type, registered: Any) -> type:
        return next((base for base in kind.__mro__ if base in registered), kind)

    patch.setattr(registry, "inherited_from", inherited)


def forget_inference_mode(patch: pytest.MonkeyPatch) -> None:
    """Layers inside a layer without a `training` argument run in training mode."""
    run = Call.run

    def in_training(call: Call, values: Any) -> Any:
        if isinstance(call.layer, keras.layers.Dropout):
            return [call.layer(*values, training=True)]
        return run(call, values)

    patch.setattr(Call, "run", in_training)


def mix_silently(patch: pytest.MonkeyPatch) -> None:
    """Layers that mix channels are taken for elementwise ones."""
    patch.setitem(registry._RULES, keras.layers.RMSNormalization, Carry())


def forget_the_unknown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("dropreg.element._find.account", lambda graph, joined, kinds, known: joined)


def of_one(layer: Any) -> Drawn:
    """A small model with this layer in the middle."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, activation="tanh", name="before")(inputs)
    hidden = keras.layers.Dense(5, activation="relu", name="after")(layer(hidden))
    model = keras.Model(inputs, keras.layers.Dense(3, name="out")(hidden))
    randomize(model, 0)
    return Drawn(model, [np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)], (), "float32")


BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], Any], str]] = {
    "a scale is forgotten": (forget_scales, own.Scaled, "masked equals shrunk"),
    "an overriding subclass inherits": (inherit_by_class, lambda: own.CentredDense(4), "masked equals shrunk"),
    "a mixing layer carries": (mix_silently, keras.layers.RMSNormalization, "masked equals shrunk"),
    "training mode": (forget_inference_mode, own.Composite, "all kept equals predict"),
    "a layer without a rule is not named": (forget_the_unknown, own.Mixture, "every layer is an element's.*mixture"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_caught(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks, layer, law = BROKEN[case]
    drawn = of_one(layer())
    assert check(drawn, "neurons", 1) == "removed"
    breaks(monkeypatch)
    with pytest.raises(AssertionError, match=law):
        check(drawn, "neurons", 1)


def test_random_models_catch_a_broken_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    inherit_by_class(monkeypatch)
    with pytest.raises(AssertionError, match="masked equals shrunk"):
        search(0, 40, ("neurons",), frozenset({"dense", "centred_dense"}))
