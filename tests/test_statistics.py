"""Statistics on networks whose impacts are known by enumeration."""

import itertools
from typing import Any

import flat
import keras
import models
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers
from scipy import stats
from sklearn.linear_model import Ridge

import dropreg as dr
from dropreg._utils._draws import examples_of_rows
from dropreg.errors import ParameterError, RecordError
from dropreg.network._masked import MaskedNetwork
from dropreg.regression._compression import observations
from dropreg.regression._fidelity import fidelity_table
from dropreg.regression._ols import CovarianceType
from dropreg.sampling._runner import share_of_noise

DESIGNS = {
    "bernoulli": dr.designs.Bernoulli(0.25),
    "one rate each": dr.designs.Bernoulli((0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.3, 0.2, 0.1)),
    "paired": dr.designs.Paired(0.25),
    "several examples": dr.designs.Bernoulli(0.25, examples_per_mask=4),
}

Small = tuple[keras.Model, tuple[Any, np.ndarray], dr.Elements]


def small(seed: int = 0) -> Small:
    model = models.ready("mlp", seed)
    return model, models.data_for(model, 20, seed), dr.elements(model)


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
        for estimator in ("ols", "marginal", "ridge", "lasso"):
            table = dr.regress(record, outcome=outcome, estimator=estimator)
            error = np.abs(table.impact - expected)
            if estimator != "lasso":
                assert (error <= 4.5 * table.std_error + 1e-9).all(), (outcome, estimator)
            assert np.linalg.norm(error) < 0.15 * np.linalg.norm(expected), (outcome, estimator)


def test_paired_masks_are_complements_inside_a_pool() -> None:
    masks = dr.designs.Paired(0.2).draw(seed=1, chunk=0, n_masks=20_000, n_elements=6)
    first, second = ~masks[::2], ~masks[1::2]
    assert not (first & second).any()
    np.testing.assert_allclose((~masks).mean(axis=0), 0.2, atol=0.015)
    in_pool = first | second
    np.testing.assert_allclose(in_pool.mean(axis=0), 0.4, atol=0.02)
    both = in_pool[:, 0] & in_pool[:, 1]
    np.testing.assert_allclose((first[both, 0] == first[both, 1]).mean(), 0.5, atol=0.04)


def test_pairs_share_their_examples_and_are_regressed_as_differences() -> None:
    record = flat.sample(*small(), rows=20_000, design=dr.designs.Paired(0.25), fidelity=None, progress=False)
    differences = dr.regress(record, outcome="loss")
    single = dr.regress(record, outcome="loss", paired=False)
    assert differences.details["differences of pairs"]
    assert "differences of pairs" not in single.details
    errors = np.hypot(differences.std_error, single.std_error)
    assert (np.abs(differences.impact - single.impact) < 4.5 * errors).all()
    examples = next(record.chunks()).examples
    np.testing.assert_array_equal(examples[::2], examples[1::2])


def test_fidelity_of_differences_is_judged_from_the_mean_of_single_masks() -> None:
    """What nothing dropped changes cancels within pairs, and must not be lost."""
    record = flat.sample(*small(), rows=2_000, design=dr.designs.Paired(0.25), outcomes="loss", progress=False)
    found = dr.regress(record, outcome="loss", paired=True)
    assert found.fidelity is not None
    assert record.fidelity_masks is not None
    left = [block.y[:, 0] - block.x @ found.impact for block in observations(record).blocks()]
    expected = fidelity_table(record.fidelity_masks, 0, found.impact, float(np.concatenate(left).mean()))
    np.testing.assert_allclose(found.fidelity["r2"], expected["r2"], rtol=1e-5)


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


def test_adjusted_p_values_are_those_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    frame = flat.estimate(*small(), rows=3000, gradients=False, progress=False).frame
    np.testing.assert_allclose(frame["p_bh"], np.asarray(multipletests(frame["p_value"], method="fdr_bh")[1], float))
    np.testing.assert_allclose(frame["p_by"], np.asarray(multipletests(frame["p_value"], method="fdr_by")[1], float))
    assert (frame["p_by"] >= frame["p_bh"]).all()


def test_negligible_is_judged_by_the_distribution_of_the_table() -> None:
    """Few clusters: Student's t, as for the table's own intervals."""
    model, (x, y), elements = small()
    record = flat.sample(model, (x[:6], y[:6]), elements, rows=3000, outcomes="loss", progress=False)
    table = dr.regress(record, outcome="loss", covariance="cluster")
    margin = 2.0 * float(np.abs(table.impact).max())
    shown = table.negligible(margin, level=0.999).set_index("element")["p_equivalence"]
    own = table.frame.set_index("element").loc[shown.index]
    half = (own["ci_high"] - own["impact"]) / own["std_error"]
    np.testing.assert_allclose(half, stats.t.ppf(0.975, 5))
    np.testing.assert_allclose(shown, stats.t.sf((margin - own["impact"].abs()) / own["std_error"], 5))


def test_a_mask_that_runs_on_all_examples_is_measured_without_noise() -> None:
    model, (x, y), elements = small()
    few = flat.sample(model, (x[:100], y[:100]), elements, rows=2000, outcomes="loss", progress=False)
    fidelity = dr.regress(few, outcome="loss").fidelity
    assert fidelity is not None
    assert fidelity["r2_ceiling"].min() > 1 - 1e-9


@pytest.mark.parametrize(("n_examples", "n"), [(40, 10), (40, 30), (40, 60), (35, 20)])
def test_the_noise_of_masks_that_run_on_some_examples(n_examples: int, n: int) -> None:
    values = np.random.default_rng(0).normal(size=n_examples)
    means = [values[examples_of_rows(seed, 3 * n, n, n_examples)].mean() for seed in range(4000)]
    expected = values.var(ddof=1) * share_of_noise(3 * n, n, n_examples)
    assert np.var(means) == pytest.approx(expected, rel=0.1)


def test_negligible_is_shown_not_merely_unproven() -> None:
    few, many = (
        flat.estimate(*small(), outcome="loss", rows=rows, gradients=False, progress=False) for rows in (300, 200_000)
    )
    margin = float(np.sort(np.abs(many.impact))[4]) * 1.3
    shown = many.negligible(margin)
    assert 2 <= len(shown) < len(many)
    assert (shown["impact"].abs() < margin).all()
    assert len(few.negligible(margin)) < len(shown)
    assert many.negligible(1e-9).empty
    assert len(many.negligible(1e3)) == len(many)


def test_interactions_are_second_derivatives() -> None:
    """Against enumeration: F(both dropped) - F(one) - F(other) + F(none) at independent rates."""
    case = small()
    masks, loss, rate = all_masks(len(case[2])), worse_by_mask(case, "loss"), 0.3
    weights = np.prod(np.where(masks, 1 - rate, rate), axis=1)

    def mean(i: bool, j: bool, a: int, b: int) -> float:
        at = (masks[:, a] == i) & (masks[:, b] == j)
        return float(np.average(loss[at], weights=weights[at]))

    table = flat.estimate(*case, outcome="loss", rows=400_000, gradients=False, interactions=True, progress=False)
    assert table.interactions is not None
    for a, b in itertools.combinations(range(len(case[2])), 2):
        expected = mean(False, False, a, b) - mean(False, True, a, b) - mean(True, False, a, b) + mean(True, True, a, b)
        assert abs(table.interactions.values[a, b] - expected) < 5 * table.interactions.std_error[a, b] + 1e-6
        assert table.interactions.values[a, b] == pytest.approx(table.interactions.values[b, a], abs=1e-6)


@pytest.mark.parametrize("kind", ["copy", "scaled", "negated"])
def test_planted_redundant_pairs_are_found_first(kind: str) -> None:
    """Two units that stand in for each other through saturating readers, among eight others."""
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(10, activation="relu", name="units"),
            layers.Dense(8, activation="tanh", name="read"),
            layers.Dense(3, name="out"),
        ]
    )
    for layer in model.layers:
        layer.set_weights([rng.normal(scale=0.5, size=weight.shape) for weight in layer.get_weights()])
    write, read = model.get_layer("units"), model.get_layer("read")
    kernel, bias = write.get_weights()
    rows, offsets = read.get_weights()
    rows[2] = rng.choice([-4.0, 4.0], size=8)
    bias[2] = 3.0 if kind == "negated" else 1.5
    sign = -1.0 if kind == "negated" else 1.0
    scale = 2.0 if kind == "scaled" else 1.0
    kernel[:, 7], bias[7], rows[7] = sign * scale * kernel[:, 2], scale * bias[2], rows[2] / scale
    write.set_weights([kernel, bias])
    read.set_weights([rows, offsets])
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = np.argmax(model(x), axis=1)
    elements = dr.elements(model, include=["units"])
    table = flat.estimate(model, (x, y), elements, outcome="loss", rows=100_000, interactions=True, progress=False)
    first = table.redundant_pairs().iloc[0]
    assert {first["element"], first["other"]} == {"units[2]", "units[7]"}


def test_fidelity_is_part_of_the_table() -> None:
    table = flat.estimate(*small(), outcome="margin", rows=100_000, progress=False)
    assert table.fidelity is not None
    assert list(table.fidelity["rate"]) == pytest.approx([0.15, 0.3, 0.6])
    at_rate = table.fidelity.iloc[1]
    assert 0.5 < at_rate["correlation"] <= 1.0
    assert 0.5 < at_rate["ceiling"] <= 1.0
    assert at_rate["r2"] <= 1.0
    assert "correlation with unseen masks" in repr(table)
    record = flat.sample(*small(), rows=2000, fidelity=None, progress=False)
    assert dr.regress(record, estimator="ols").fidelity is None


def test_fidelity_of_a_linear_network_is_its_ceiling() -> None:
    """Impacts predict a network without hidden interactions up to the noise of the measured means."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(9, name="a"), layers.Dense(1, name="out")])
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    own = dr.outcomes.PerExample(lambda labels, outputs: outputs[:, 0], "output", greater_is_better=True)
    record = flat.sample(
        model,
        (x, np.zeros(50)),
        dr.elements(model),
        rows=100_000,
        outcomes=own,
        fidelity=dr.designs.Fidelity(masks=200, examples=50),
        task="regression",
        progress=False,
    )
    table = dr.regress(record, outcome="output")
    assert table.fidelity is not None
    assert (table.fidelity["correlation"] > table.fidelity["ceiling"] - 0.03).all()
    assert (table.fidelity["r2"] > table.fidelity["r2_ceiling"] - 0.05).all()


def test_to_statsmodels_gives_the_same_numbers() -> None:
    record = flat.sample(*small(), rows=5000, progress=False)
    kinds: list[CovarianceType] = ["HC1", "cluster", "nonrobust"]
    for covariance in kinds:
        table = dr.regress(record, outcome="loss", estimator="ols", covariance=covariance)
        result = dr.regression.to_statsmodels(record, outcome="loss", covariance=covariance)
        np.testing.assert_allclose(table.impact, result.params.iloc[1:], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(table.std_error, result.bse.iloc[1:], rtol=1e-6)
        np.testing.assert_allclose(table.frame["p_value"], result.pvalues.iloc[1:], rtol=1e-5, atol=1e-9)
        interval = table.frame[["ci_low", "ci_high"]].to_numpy()
        np.testing.assert_allclose(interval, result.conf_int().iloc[1:], rtol=1e-6, atol=1e-9)
    assert "a[0]" in str(dr.regression.to_statsmodels(record, outcome="loss").summary())


@pytest.mark.parametrize("names", [("loss", "accuracy"), ("accuracy", "loss"), ("margin",)])
def test_the_default_outcome_is_the_first_of_the_record(names: tuple[str, ...]) -> None:
    record = dr.sample(*small(), rows=500, outcomes=names, progress=False)
    default, named = dr.regress(record, estimator="ols"), dr.regress(record, outcome=names[0], estimator="ols")
    assert default.outcome == names[0]
    pd.testing.assert_frame_equal(default.to_frame(), named.to_frame())
    assert dr.regression.to_statsmodels(record).model.endog_names == names[0]


def test_a_scikit_learn_estimator_may_be_passed() -> None:
    record = flat.sample(*small(), rows=5000, progress=False)
    given = dr.regress(record, outcome="loss", estimator=Ridge(alpha=3.0))
    named = dr.regress(record, outcome="loss", estimator="ridge", penalty=3.0)
    np.testing.assert_allclose(given.impact, named.impact, rtol=1e-8)
    assert given.frame["p_value"].isna().all()


def test_bad_input_names_what_is_expected() -> None:
    case = small()
    record = flat.sample(*case, rows=2000, progress=False)
    with pytest.raises(ParameterError, match=r"`paired=True` must have masks in pairs, received a record of Bern"):
        dr.regress(record, paired=True)
    with pytest.raises(RecordError, match=r"must hold gradients of 'loss', received none: sample .*gradients=\('loss'"):
        dr.regress(record, outcome="loss", estimator="assisted")
    with pytest.raises(ParameterError, match=r"must have interactions, received a table without"):
        dr.regress(record).redundant_pairs()
    with pytest.raises(ParameterError, match=r"`margin` must be positive and finite, received 0"):
        dr.regress(record).negligible(0)
    with pytest.raises(ParameterError, match=r"`negligible` must have standard errors, received impacts by lasso"):
        dr.regress(record, estimator="lasso").negligible(0.1)
    with pytest.raises(ParameterError, match=r"`rows` must be a multiple of 6 .* pass rows=12"):
        flat.sample(*case, rows=10, design=dr.designs.Paired(0.2, examples_per_mask=3), progress=False)
    with pytest.raises(ParameterError, match=r"`gradients` must name measured outcomes \(loss\), received 'margin'"):
        flat.sample(*case, rows=10, outcomes="loss", gradients=("margin",), progress=False)


def test_elements_that_are_never_dropped_are_refused_by_ols_and_taken_by_ridge() -> None:
    rare = flat.sample(*small(), rows=40, design=dr.designs.Bernoulli(0.001), progress=False)
    with pytest.raises(ParameterError, match=r"that never change .*draw more rows, or pass estimator='ridge'"):
        dr.regress(rare, estimator="ols")
    assert np.isfinite(dr.regress(rare, estimator="ridge").impact).all()
