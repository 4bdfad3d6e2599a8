"""Estimators of shapiq that choose masks and that take recorded ones: stand-ins, and its own where installed."""

import importlib
import importlib.util
import itertools
import sys
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from conftest import Labelled, says
from keras import layers
from scipy.special import binom

import dropreg as dr
from dropreg.baselines.probe import Probe
from dropreg.baselines.question import ask

RELATIVE, ABSOLUTE = 1e-4, 1e-5  # outcomes are recorded in float32
N_UNITS, OFFSET = 5, 0.4
ROWS_OF_TREES = 1_500


class Sampled:
    """Stands in for an approximator: asks for single elements and for all but one."""

    def __init__(self, n: int, random_state: int) -> None:
        self.n = n

    def approximate(self, budget: int, game: Any) -> dict[tuple[int, ...], float]:
        masks = ~np.eye(self.n, dtype=bool)
        whole = float(game(np.ones(self.n, bool))[0])
        values = game(masks)
        assert budget >= len(masks)
        return {(j,): whole - float(values[j]) for j in range(self.n)}


class RegressionFBII:
    """Stands in for the one of shapiq: weighted least squares on what its sampler has."""

    index = "FBII"

    def __init__(self, n: int, max_order: int, random_state: int) -> None:
        self.n, self.max_order = n, max_order
        self._sampler: Any = None
        self._uniform_sampler: Any = None

    def regression_routine(self, masks: np.ndarray, values: np.ndarray, weights: np.ndarray) -> dict[Any, float]:
        orders = range(self.max_order + 1)
        terms = [term for size in orders for term in itertools.combinations(range(self.n), size)]
        root = np.sqrt(weights * self.kernel(masks.sum(axis=1)))
        columns = np.stack([masks[:, term].all(axis=1) for term in terms], axis=1)
        found = np.linalg.lstsq(root[:, None] * columns, root * values, rcond=None)[0]
        return dict(zip(terms, found.tolist(), strict=True))

    def kernel(self, sizes: np.ndarray) -> np.ndarray:
        return np.ones(len(sizes))

    def approximate(self, budget: int, game: Any) -> dict[tuple[int, ...], float]:
        sampler = self._sampler
        sampler.sample(budget)
        assert not sampler.coalitions_matrix[sampler.empty_coalition_index].any()
        values = game(sampler.coalitions_matrix)
        return self.regression_routine(sampler.coalitions_matrix, values, sampler.sampling_adjustment_weights)


class KernelSHAP(RegressionFBII):
    index = "SV"

    def __init__(self, n: int, random_state: int, **unused: Any) -> None:
        super().__init__(n, 1, random_state)

    def kernel(self, sizes: np.ndarray) -> np.ndarray:
        inner = (sizes > 0) & (sizes < self.n)
        return np.where(inner, 1 / (self.n - 1) / np.maximum(binom(self.n - 2, sizes - 1.0), 1.0), 1e8)


class ProxySPEX(RegressionFBII):
    """Fits all rows alike, those of a mask that comes again too."""

    def approximate(self, budget: int, game: Any) -> dict[tuple[int, ...], float]:
        sampler = self._uniform_sampler
        sampler.sample(budget)
        assert len(sampler.coalitions_matrix) == budget == ROWS_OF_TREES
        return self.regression_routine(sampler.coalitions_matrix, game(sampler.coalitions_matrix), np.ones(budget))


def installed(*names: str) -> list[Any]:
    """Classes of shapiq, none where it is not installed."""
    if importlib.util.find_spec("shapiq") is None:
        return []
    return [getattr(importlib.import_module("shapiq.approximator"), name) for name in names]


TREES = importlib.util.find_spec("lightgbm") is not None
BANZHAF = [RegressionFBII, *installed("RegressionFBII")]
ADDITIVE = [*BANZHAF, KernelSHAP, *installed("KernelSHAP", "KernelSHAPIQ", "kADDSHAP", "RegressionFSII")]
PAIRWISE = [*BANZHAF, *installed("KernelSHAPIQ", "RegressionFSII", "InconsistentKernelSHAPIQ")]


def linear(seed: int = 0) -> keras.Model:
    """Five linear units whose weighted sum is the output."""
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(N_UNITS, name="units"), layers.Dense(1, name="out")], name="linear"
    )
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    model.get_layer("out").bias.assign([OFFSET])
    return model


def worths(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """What each unit adds to the output, shape (n_examples, n_units)."""
    kernel, bias = model.get_layer("units").get_weights()
    return (x @ kernel + bias) * model.get_layer("out").get_weights()[0][:, 0]


def recorded(model: keras.Model, x: np.ndarray, *, squared: bool = False, **settings: Any) -> dr.Record:
    """Masks with the output, or its square, as the outcome 'said'; more of it is better."""

    def said(labels: Any, outputs: Any) -> Any:
        return outputs[:, 0] ** 2 if squared else outputs[:, 0]

    settings = {"rows": 2_000, "design": dr.Bernoulli(0.4), "progress": False} | settings
    own = dr.PerExample(said, "said", greater_is_better=True)
    y = np.zeros((len(x), 1), np.float32)
    return dr.sample(model, (x, y), dr.elements(model), outcomes=(own,), task="regression", **settings)


@pytest.fixture(scope="module")
def one_example() -> np.ndarray:
    """With a single example a row has no noise."""
    return np.random.default_rng(1).normal(size=(1, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def examples() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(50, 3)).astype(np.float32)


@pytest.mark.parametrize("estimator", ADDITIVE)
def test_an_additive_outcome_is_found_exactly(estimator: Any, one_example: np.ndarray) -> None:
    model = linear()
    record = recorded(model, one_example, design=dr.Bernoulli((0.2, 0.3, 0.4, 0.5, 0.6)))
    table = dr.shapiq_regress(record, outcome="said", estimator=estimator)
    np.testing.assert_allclose(table.impact, worths(model, one_example)[0], rtol=RELATIVE, atol=ABSOLUTE)
    assert (table.rows, table.method) == (2_000, f"shapiq {estimator.__name__}")
    assert np.isnan(table.std_error).all()


@pytest.mark.parametrize("estimator", BANZHAF)
@pytest.mark.parametrize("design", [dr.Bernoulli(0.3), dr.Bernoulli((0.2, 0.3, 0.4, 0.5, 0.6))])
def test_at_order_one_banzhaf_is_ordinary_least_squares(
    estimator: Any, design: dr.Design, examples: np.ndarray
) -> None:
    record = recorded(linear(), examples, squared=True, design=design)
    table = dr.shapiq_regress(record, outcome="said", estimator=estimator)
    np.testing.assert_allclose(
        table.impact, dr.regress(record, outcome="said", estimator="ols").impact, rtol=RELATIVE, atol=ABSOLUTE
    )


def test_the_less_the_better_turns_the_sign(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    record = dr.sample(model, data, elements, rows=3_000, outcomes=("accuracy", "loss"), progress=False)
    for outcome in ("accuracy", "loss"):
        table = dr.shapiq_regress(record, outcome=outcome, estimator=RegressionFBII)
        np.testing.assert_allclose(
            table.impact, dr.regress(record, outcome=outcome, estimator="ols").impact, rtol=RELATIVE, atol=ABSOLUTE
        )


@pytest.mark.parametrize("estimator", PAIRWISE)
def test_pairs_of_a_square_are_found_exactly(estimator: Any, one_example: np.ndarray) -> None:
    """(offset + sum of worths)^2 loses more by two than by each, 2 c_i c_j less: it is more of it that is better."""
    model = linear()
    record = recorded(model, one_example, squared=True, rows=4_000)
    table = dr.shapiq_regress(record, outcome="said", estimator=estimator, order=2)
    c = worths(model, one_example)[0]
    expected = -2 * np.outer(c, c)
    np.fill_diagonal(expected, 0.0)
    assert table.interactions is not None
    tolerance = 0.02 if estimator.__name__ == "KernelSHAPIQ" else ABSOLUTE  # that one fits pairs to residuals
    np.testing.assert_allclose(table.interactions.values, expected, rtol=RELATIVE, atol=tolerance)
    impacts = dr.shapiq_regress(record, outcome="said", estimator=estimator).impact
    np.testing.assert_array_equal(table.impact, impacts)  # pairs leave them as they are
    frame = table.interactions.pairs()
    assert frame["interaction"].is_monotonic_decreasing
    with pytest.raises(dr.ParameterError, match=says("`redundant` must have standard errors", "interactions=True")):
        table.redundant_pairs()


@pytest.mark.parametrize("rate", [0.3, 0.6])
def test_shapley_values_whatever_the_design(rate: float, one_example: np.ndarray) -> None:
    """Of (offset + sum of worths)^2: c_j (2 offset + sum of worths)."""
    model = linear()
    record = recorded(model, one_example, squared=True, rows=20_000, design=dr.Bernoulli(rate))
    c = worths(model, one_example)[0]
    for estimator in (KernelSHAP, *installed("KernelSHAP", "KernelSHAPIQ")):
        table = dr.shapiq_regress(record, outcome="said", estimator=estimator)
        np.testing.assert_allclose(table.impact, c * (2 * OFFSET + c.sum()), atol=0.05 * np.abs(c).sum() ** 2)
        assert 100 < table.details["effective masks"] < 20_000


@pytest.mark.parametrize("estimator", [ProxySPEX, *(installed("ProxySPEX") if TREES else [])])
def test_a_fitted_game_gets_every_row(estimator: Any, one_example: np.ndarray) -> None:
    model = linear()
    record = recorded(model, one_example, squared=True, rows=ROWS_OF_TREES, design=dr.Bernoulli(0.5))
    table = dr.shapiq_regress(record, outcome="said", estimator=partial(estimator), order=2)
    c = worths(model, one_example)[0]
    expected, pairs = c * (2 * OFFSET + c.sum()), -2 * np.outer(c, c)
    np.fill_diagonal(pairs, 0.0)
    np.testing.assert_allclose(table.impact, expected, atol=0.15 * np.abs(expected).max())  # it leaves small terms out
    assert table.interactions is not None
    np.testing.assert_allclose(table.interactions.values, pairs, atol=0.15 * np.abs(pairs).max())


def test_what_cannot_be_done_is_named(one_example: np.ndarray) -> None:
    model = linear()
    record = recorded(model, one_example, rows=200, design=dr.Bernoulli(0.1))
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"outcome": "loss"}, ("`outcome` must be one of the record's (said)", "received 'loss'")),
        ({"order": 3}, ("`order` must be 1 or 2, received 3",)),
        ({"estimator": Sampled}, ("must be one that fits given masks", "received Sampled", "`shapiq_scores`")),
        ({"estimator": KernelSHAP}, ("KernelSHAP must have masks that drop everything", "among 200", "RegressionFBII")),
    ]
    for changes, parts in cases:
        with pytest.raises(dr.ParameterError, match=says(*parts)):
            dr.shapiq_regress(record, **({"outcome": "said", "estimator": RegressionFBII} | changes))


def test_masks_that_cannot_tell_terms_apart_are_named(one_example: np.ndarray) -> None:
    few = recorded(linear(), one_example, rows=4)
    with pytest.raises(dr.ParameterError, match=says("4 distinct masks cannot identify the 6 terms", "draw more rows")):
        dr.shapiq_regress(few, outcome="said", estimator=RegressionFBII)
    never = recorded(linear(), one_example, rows=2_000, design=dr.Bernoulli((0.3, 0.3, 0.3, 0.3, 1e-9)))
    with pytest.raises(dr.ParameterError, match=says("16 distinct masks cannot identify", "at a rate at which")):
        dr.shapiq_regress(never, outcome="said", estimator=RegressionFBII)
    enough = recorded(linear(), one_example, rows=2_000)
    with pytest.raises(dr.ParameterError, match=says("`order` must be 1 for KernelSHAP, received 2", "KernelSHAPIQ")):
        dr.shapiq_regress(enough, outcome="said", estimator=KernelSHAP, order=2)


def test_estimators_play_the_masked_game(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    table = dr.shapiq_scores(model, data, elements, rows=400, estimator=Sampled, examples=30)
    np.testing.assert_allclose(table.impact, dr.leave_one_out(model, data, elements).impact, rtol=1e-4, atol=1e-6)
    assert table.rows == 300
    game = dr.masked_game(model, data, elements, outcome="accuracy")
    masks = np.random.default_rng(0).random((4, 9)) < 0.5
    values = game(masks)
    probe = Probe(ask(model, data, elements, outcome="accuracy", task=None, kept=None, seed=0))
    np.testing.assert_allclose(values, probe.means(masks, np.arange(30)))  # larger is better, as it is
    np.testing.assert_array_equal(game.masks[0], masks)


def test_the_extra_is_named(
    model: keras.Model, data: Labelled, elements: dr.Elements, monkeypatch: pytest.MonkeyPatch, one_example: np.ndarray
) -> None:
    monkeypatch.setitem(sys.modules, "shapiq.approximator", None)
    with pytest.raises(dr.ParameterError, match=says("must have the package shapiq", "pip install 'dropreg[shapiq]'")):
        dr.shapiq_scores(model, data, elements, rows=1_000)
    with pytest.raises(dr.ParameterError, match=says("`shapiq_regress` must have the package shapiq")):
        dr.shapiq_regress(recorded(linear(), one_example, rows=100), outcome="said")
