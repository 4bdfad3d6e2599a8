"""Impacts, interactions and gradients against enumeration of all masks and finite differences."""

import itertools

import flat
import models
import numpy as np
import pytest
import tensorflow as tf
from runs import Small, small

import dropreg as dr
from dropreg.network._masked import MaskedNetwork

DESIGNS = {
    "bernoulli": dr.designs.Bernoulli(0.25),
    "one rate each": dr.designs.Bernoulli((0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.3, 0.2, 0.1)),
    "paired": dr.designs.Paired(0.25),
    "several examples": dr.designs.Bernoulli(0.25, examples_per_mask=4),
}


def all_masks(n: int) -> np.ndarray:
    return np.array(list(itertools.product([True, False], repeat=n)))


def worse_by_mask(case: Small, outcome: str) -> np.ndarray:
    """Mean outcome over the examples for every mask, turned so that more is worse."""
    model, (x, y), elements = case
    masks = all_masks(len(elements))
    rows, labels = np.repeat(x, len(masks), axis=0), np.repeat(y, len(masks))
    outputs = MaskedNetwork(model, elements)([rows], np.tile(masks, (len(y), 1)))
    log_p = tf.nn.log_softmax(outputs).numpy().astype(np.float64)
    own = log_p[np.arange(len(labels)), labels]
    rest = np.where(np.eye(models.N_CLASSES, dtype=bool)[labels], -np.inf, log_p).max(axis=1)
    values = {"loss": -own, "accuracy": -(own > rest).astype(float), "margin": rest - own}[outcome]
    return values.reshape(len(y), len(masks)).mean(axis=0)


def enumerated(case: Small, outcome: str, rates: np.ndarray) -> np.ndarray:
    """True impacts under independent drop rates."""
    masks, mean = all_masks(len(rates)), worse_by_mask(case, outcome)
    weights = np.prod(np.where(masks, 1 - rates, rates), axis=1)
    dropped = [np.average(mean[~m], weights=weights[~m]) for m in masks.T]
    kept = [np.average(mean[m], weights=weights[m]) for m in masks.T]
    return np.array(dropped) - np.array(kept)


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_estimates_the_same_impacts(name: str) -> None:
    """All have independent elements, so all give the derivative of the expected outcome."""
    case, design = small(), DESIGNS[name]
    rates = 1 - design.keep_probabilities(len(case[2]))
    record = flat.sample(*case, rows=80_000, design=design, seed=2, fidelity=None, progress=False)
    for outcome in ("loss", "accuracy", "margin"):
        expected = enumerated(case, outcome, rates)
        for estimator in ("ols", "marginal", "ridge"):
            table = dr.regress(record, outcome=outcome, estimator=estimator)
            error = np.abs(table.impact - expected)
            assert (error <= 4.5 * table.std_error + 1e-9).all(), (outcome, estimator)
            assert np.linalg.norm(error) < 0.15 * np.linalg.norm(expected), (outcome, estimator)


@pytest.mark.parametrize("outcome", ["loss", "margin", "accuracy"])
def test_gradient_assisted_regression_converges(outcome: str) -> None:
    """With many rows it reaches the enumerated impacts, which the gradient alone misses."""
    case = small()
    expected = enumerated(case, outcome, np.full(len(case[2]), 0.3))
    record = flat.sample(*case, rows=300_000, outcomes=(outcome,), gradients=(outcome,), fidelity=None, progress=False)
    assisted = dr.regress(record, outcome=outcome)
    assert assisted.method == "gradient-assisted regression"
    assert assisted.details["row equivalents"] == 900_000
    assert (np.abs(assisted.impact - expected) <= 4.5 * assisted.std_error).all()
    alone = dr.regress(record, outcome=outcome, estimator="gradient")
    assert np.linalg.norm(assisted.impact - expected) < 0.95 * np.linalg.norm(alone.impact - expected)
    assert np.corrcoef(alone.impact, expected)[0, 1] > 0.8


def test_gradients_are_those_of_finite_differences() -> None:
    """The derivative with respect to a mask value, summed over kept and dropped rows."""
    case = model, data, elements = small()
    record = flat.sample(*case, rows=300, outcomes="loss", gradients=("loss",), fidelity=None, progress=False)
    network = MaskedNetwork(model, elements)
    chunk = next(record.chunks())
    x, labels = data[0][chunk.examples[:, 0]], data[1][chunk.examples[:, 0]]

    def losses(kept: np.ndarray) -> np.ndarray:
        scores = tf.nn.log_softmax(network([x], kept)).numpy()
        return -scores[np.arange(len(labels)), labels]

    sums, step = record.gradient_sums("loss"), 1e-2
    for j in range(len(elements)):
        up, down = chunk.masks.astype(np.float32), chunk.masks.astype(np.float32)
        up[:, j] += step
        down[:, j] -= step
        slopes = (losses(up) - losses(down)) / (2 * step)
        assert sums.kept[j] == pytest.approx(slopes[chunk.masks[:, j]].sum(), abs=0.1, rel=0.03)
        assert sums.dropped[j] == pytest.approx(slopes[~chunk.masks[:, j]].sum(), abs=0.1, rel=0.03)
        assert sums.n_kept[j] == chunk.masks[:, j].sum()


def test_interactions_are_second_derivatives() -> None:
    """Against enumeration: F(both dropped) - F(one) - F(other) + F(none) at independent rates."""
    case = small()
    masks, loss, rate = all_masks(len(case[2])), worse_by_mask(case, "loss"), 0.3
    weights = np.prod(np.where(masks, 1 - rate, rate), axis=1)

    def mean(i: bool, j: bool, a: int, b: int) -> float:
        at = (masks[:, a] == i) & (masks[:, b] == j)
        return float(np.average(loss[at], weights=weights[at]))

    record = flat.sample(*case, outcomes="loss", rows=400_000, fidelity=None)
    table = dr.regress(record, outcome="loss", interactions=True)
    assert table.interactions is not None
    for a, b in itertools.combinations(range(len(case[2])), 2):
        expected = mean(False, False, a, b) - mean(False, True, a, b) - mean(True, False, a, b) + mean(True, True, a, b)
        assert abs(table.interactions.values[a, b] - expected) < 5 * table.interactions.std_error[a, b] + 1e-6
        assert table.interactions.values[a, b] == pytest.approx(table.interactions.values[b, a], abs=1e-6)
