"""The regression on the compressed design against statsmodels and scikit-learn on all rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import Ridge

from dropreg.regression import Uncertainty, impact_table
from dropreg.regression._assisted import assisted
from dropreg.regression._compression import RowBlock, Rows, compress, gram
from dropreg.regression._ols import CovarianceType, check_identified, marginal, ols
from dropreg.regression._penalized import penalty_weights, ridge
from dropreg.sampling._chunks import GradientSums

TOLERANCE = 1e-6  # the meat is summed in float32 within a chunk


@dataclass
class Simulated:
    masks: np.ndarray
    examples: np.ndarray
    effects: np.ndarray


def simulate(rows: int, n_elements: int, seed: int, *, rate: float = 0.3, n_examples: int = 40) -> Simulated:
    """Rows of a set function with pairwise terms, an example effect and noise that depends on the masks."""
    rng = np.random.default_rng(seed)
    masks = rng.random((rows, n_elements)) >= rate
    dropped = (~masks).astype(float)
    examples = rng.integers(0, n_examples, rows)
    main = dropped @ rng.normal(size=(n_elements, 2))
    pairs = (dropped[:, :1] * dropped[:, 1:2]) * np.array([0.7, -0.4])
    noise = rng.normal(size=(rows, 2)) * (0.5 + dropped.mean(axis=1, keepdims=True))
    return Simulated(masks, examples, main + pairs + noise + rng.normal(size=(n_examples, 2))[examples])


def chunked(data: Simulated, size: int) -> Rows:
    def blocks() -> Iterator[RowBlock]:
        for start in range(0, len(data.masks), size):
            part = slice(start, start + size)
            yield RowBlock((~data.masks[part]).astype(np.float32), data.effects[part], data.examples[part])

    return Rows(blocks)


@pytest.mark.parametrize("n_elements", [2, 7, 30])
@pytest.mark.parametrize("rows", [60, 500, 5000])
@pytest.mark.parametrize("outcome", [0, 1])
def test_ols_is_statsmodels_on_all_rows(n_elements: int, rows: int, outcome: int) -> None:
    data = simulate(rows, n_elements, seed=rows + n_elements)
    again = chunked(data, 173)
    reference = sm.OLS(data.effects[:, outcome], sm.add_constant((~data.masks).astype(float)))
    design = compress(again)
    plain, robust = reference.fit(), reference.fit(cov_type="HC1")
    leverages = reference.fit(cov_type="HC3", use_t=True)
    clustered = reference.fit(cov_type="cluster", cov_kwds={"groups": data.examples})
    kinds: list[tuple[CovarianceType, Any]] = [
        ("nonrobust", plain),
        ("HC1", robust),
        ("HC3", leverages),
        ("cluster", clustered),
    ]
    for kind, expected in kinds:
        fit = ols(design, again, outcome, kind)
        np.testing.assert_allclose(fit.coefficients, expected.params[1:], rtol=TOLERANCE, atol=1e-9)
        np.testing.assert_allclose(fit.std_errors, expected.bse[1:], rtol=TOLERANCE)
        covariance = expected.cov_params()[1:, 1:]
        np.testing.assert_allclose(fit.details["covariance"], covariance, atol=TOLERANCE * covariance.max())
        assert fit.intercept == pytest.approx(expected.params[0], rel=TOLERANCE, abs=1e-9)
        x, y = design.pseudo_rows(outcome)
        r2 = 1 - ((y - x @ fit.coefficients) ** 2).sum() / (y @ y)
        assert r2 == pytest.approx(expected.rsquared, rel=TOLERANCE)


@pytest.mark.parametrize("penalty", [0.1, 10.0, 1e4])
@pytest.mark.parametrize("rows", [20, 400])
def test_ridge_is_scikit_learn_on_all_rows(penalty: float, rows: int) -> None:
    data = simulate(rows, 25, seed=rows)
    again = chunked(data, 64)
    fit = ridge(compress(again), 1, penalty)
    reference = Ridge(alpha=penalty).fit((~data.masks).astype(float), data.effects[:, 1])
    np.testing.assert_allclose(fit.coefficients, reference.coef_, rtol=TOLERANCE, atol=1e-9)
    assert fit.intercept == pytest.approx(reference.intercept_, rel=TOLERANCE)


@given(rows=st.integers(1, 90), n_elements=st.integers(2, 12), size=st.integers(1, 100), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_compression_keeps_the_least_squares_problem(rows: int, n_elements: int, size: int, seed: int) -> None:
    """Pseudo-rows have the normal equations and the sum of squares of the centred rows, at any rank."""
    data = simulate(rows, n_elements, seed)
    design = compress(chunked(data, size))
    x = (~data.masks).astype(float)
    x -= x.mean(axis=0)
    y = data.effects - data.effects.mean(axis=0)
    for outcome in range(2):
        pseudo_x, pseudo_y = design.pseudo_rows(outcome)
        np.testing.assert_allclose(pseudo_x.T @ pseudo_x, x.T @ x, atol=1e-8 * rows)
        np.testing.assert_allclose(pseudo_x.T @ pseudo_y, x.T @ y[:, outcome], atol=1e-7 * rows)
        np.testing.assert_allclose(pseudo_y @ pseudo_y, y[:, outcome] @ y[:, outcome], atol=1e-6 * rows)


@pytest.mark.parametrize("rows", [8, 30, 60])
def test_penalties_are_weighted_by_prior_and_marginal_likelihood(rows: int) -> None:
    """Against the density of y under each penalty, the noise variance integrated out; uniform prior on R2."""
    data = simulate(rows, 10, seed=rows)
    x = (~data.masks).astype(float)
    x -= x.mean(axis=0)
    y = data.effects[:, 0] - data.effects[:, 0].mean()

    def log_posterior(penalty: float) -> float:
        covariance = np.eye(rows) + x @ x.T / penalty
        _, log_determinant = np.linalg.slogdet(covariance)
        unexplained = y @ np.linalg.solve(covariance, y)
        explained = 1 / (1 + rows * penalty / np.trace(x.T @ x))
        log_prior = np.log(explained * (1 - explained))  # uniform on R2, as a density of log(penalty)
        return log_prior - 0.5 * ((rows - 1) * np.log(unexplained) + log_determinant)

    values, vectors = np.linalg.eigh(x.T @ x)
    penalties, weights = penalty_weights(np.maximum(values, 0), vectors.T @ (x.T @ y), y @ y, rows)
    expected = np.array([log_posterior(penalty) for penalty in penalties[100:260:5]])
    expected = np.exp(expected - expected.max())
    np.testing.assert_allclose(weights[100:260:5], expected * weights[100:260:5].max(), atol=1e-6)
    assert weights[100:260].sum() > 0.99


def test_ridge_does_not_take_few_rows_for_certainty() -> None:
    """Impacts of .027, rows too few to see them: the errors are those impacts, and intervals cover."""
    covered, errors, rms = [], [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        masks, effects = rng.random((200, 50)) >= 0.3, rng.normal(0.0, 0.027, 50)
        y = (~masks) @ effects + rng.normal(0.0, 0.5, 200)
        fit = ridge(compress(chunked(Simulated(masks, np.arange(200), y[:, None]), 64)), 0, "evidence")
        covered.append(np.abs(fit.coefficients - effects) < 1.96 * fit.std_errors)
        errors.append(fit.std_errors)
        rms.append(fit.coefficients - effects)
    assert np.min(errors) > 0.02
    assert np.max(errors) < 0.08
    assert np.sqrt(np.mean(np.square(rms))) < 0.04
    assert np.mean(covered) > 0.95


def test_ridge_needs_rows_for_its_errors() -> None:
    with pytest.raises(ValueError, match=r"ridge must have at least four masks .*received 3: draw more rows"):
        ridge(compress(chunked(simulate(3, 5, seed=0), 64)), 0, "evidence")


def test_estimates_converge_on_a_set_function_with_pairs() -> None:
    """With y = d'b + c d_0 d_1 the coefficients are b plus c times the rate for the pair."""
    rng = np.random.default_rng(0)
    masks = rng.random((400_000, 5)) >= 0.3
    dropped = (~masks).astype(float)
    b = np.array([1.0, -0.5, 0.25, 0.0, 2.0])
    y = dropped @ b + 0.8 * dropped[:, 0] * dropped[:, 1]
    data = Simulated(masks, np.arange(len(masks)) % 100, y[:, None])
    again = chunked(data, 2**16)
    expected = b + np.array([0.8 * 0.3, 0.8 * 0.3, 0, 0, 0])
    for fit in (ols(compress(again), again, 0, "HC1"), ridge(compress(again), 0, "evidence")):
        assert (np.abs(fit.coefficients - expected) < 5 * fit.std_errors + 1e-6).all()
        np.testing.assert_allclose(fit.coefficients, expected, atol=0.01)


@pytest.mark.parametrize(("level", "shown"), [(0.95, "95%"), (0.999, "99.9%"), (0.975, "97.5%"), (0.07, "7%")])
def test_a_table_states_the_level_of_its_intervals(level: float, shown: str) -> None:
    elements = pd.DataFrame({"element": ["a[0]"], "layer": ["a"], "kind": ["neuron"], "index": [0], "params": [1]})
    table = impact_table(
        *(elements, np.ones(1), np.ones(1)),
        method="OLS",
        outcome="loss",
        rows=10,
        seed=0,
        uncertainty=Uncertainty("data set", level),
    )
    assert f"seed 0, {shown} intervals for this data set" in table.summary()


def test_intervals_cover_at_their_level_where_noise_depends_on_masks() -> None:
    """HC1 holds where equal variances do not: one element makes the outcome noisy."""
    covered: dict[str, list] = {"HC1": [], "nonrobust": []}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        masks = rng.random((400, 4)) >= 0.15
        noise = rng.normal(size=400) * np.where(masks[:, 0], 0.1, 3.0)
        again = chunked(Simulated(masks, np.arange(400), noise[:, None]), 128)
        design = compress(again)
        for kind in ("HC1", "nonrobust"):
            fit = ols(design, again, 0, kind)
            covered[kind].append(abs(fit.coefficients[0]) < 1.96 * fit.std_errors[0])
    assert 0.90 < np.mean(covered["HC1"]) < 0.98
    assert np.mean(covered["nonrobust"]) < 0.75


def test_hc3_covers_where_rows_are_few() -> None:
    """Three rows for each element: HC1 says so itself."""
    covered: dict[str, list] = {"HC1": [], "HC3": []}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        masks = rng.random((30, 10)) >= 0.3
        noise = rng.normal(size=30) * (0.3 + (~masks).sum(axis=1))
        again = chunked(Simulated(masks, np.arange(30), noise[:, None]), 16)
        design = compress(again)
        for kind in ("HC1", "HC3"):
            fit = ols(design, again, 0, kind)
            covered[kind].append(np.abs(fit.coefficients) < stats.t.ppf(0.975, fit.df) * fit.std_errors)
            assert ("note" in fit.details) == (kind == "HC1")
    assert np.mean(covered["HC1"]) < 0.91
    assert 0.93 < np.mean(covered["HC3"]) < 0.98


@pytest.mark.parametrize(("n_examples", "warned"), [(20, True), (200, False)])
def test_few_clusters_are_named(n_examples: int, warned: bool) -> None:
    again = chunked(simulate(2_000, 5, seed=0, n_examples=n_examples), 500)
    note = ols(compress(again), again, 0, "cluster").details.get("note")
    assert note == ("20 examples, fewer than 100: intervals may be too narrow" if warned else None)


@given(rows=st.integers(1, 40), columns=st.integers(1, 9), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_gram_is_the_product_with_itself(rows: int, columns: int, seed: int) -> None:
    x = np.random.default_rng(seed).random((rows, columns)).astype(np.float32)
    np.testing.assert_allclose(gram(x), x.T @ x, rtol=1e-5)


def test_unidentified_elements_are_named() -> None:
    names = [f"d[{j}]" for j in range(6)]
    few = simulate(7, 6, seed=0)
    with pytest.raises(ValueError, match=r"7 rows cannot identify 6 elements by OLS: draw at least 60"):
        check_identified(compress(chunked(few, 4)), names)
    constant = simulate(80, 6, seed=0)
    constant.masks[:, 2] = True
    with pytest.raises(ValueError, match=r"1 that never change \(d\[2\]\): draw more rows"):
        check_identified(compress(chunked(constant, 30)), names)
    collinear = simulate(80, 6, seed=0)
    collinear.masks[:, 5] = collinear.masks[:, 1]
    with pytest.raises(ValueError, match=r"collinear.*estimator='ridge'"):
        check_identified(compress(chunked(collinear, 30)), names)
    broken = simulate(80, 6, seed=0)
    broken.effects[3, 1] = np.nan
    with pytest.raises(RuntimeError, match=r"must be finite, received NaN or infinity in 1 rows"):
        compress(chunked(broken, 30))
    with pytest.raises(RuntimeError, match="at least one row"):
        compress(Rows(lambda: iter([])))


def test_marginal_regression_agrees_with_the_covariances_written_out() -> None:
    data = simulate(5000, 8, seed=7)
    x, y = (~data.masks).astype(float), data.effects[:, 0]
    fit = marginal(chunked(data, 611), 0, np.full(8, 0.3))
    each = (x - 0.3) * (y - y.mean())[:, None] / (0.3 * 0.7)
    np.testing.assert_allclose(fit.coefficients, each.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fit.std_errors, each.std(axis=0) / np.sqrt(4999), rtol=1e-3)


def test_precise_gradients_reduce_the_noise_of_few_rows() -> None:
    """Elements whose gradient is certain keep its answer, up to scale, however uncertain those of others are."""
    p, n, rng = 20, 120, np.random.default_rng(0)
    masks, certain = rng.random((n, p)) < 0.7, np.arange(p) < 10
    effects = np.where(certain, rng.normal(1.0, 0.3, p), 0.0)
    gradients = -effects + np.where(certain, 0.0, rng.normal(0.0, 5.0, (n, p)))
    sums = GradientSums(
        *((masks * gradients).sum(axis=0), (~masks * gradients).sum(axis=0)),
        *((masks * gradients**2).sum(axis=0), (~masks * gradients**2).sum(axis=0)),
        *(masks.sum(axis=0).astype(float), (~masks).sum(axis=0).astype(float)),
    )
    y = (~masks) @ effects + rng.normal(0.0, 20.0, n)
    design = compress(Rows(lambda: iter([RowBlock((~masks).astype(np.float32), y[:, None], np.arange(n))])))
    fit = assisted(design, 0, sums)
    scale = fit.details["scale of the gradient"]
    off = fit.coefficients[certain] - scale * effects[certain]
    assert np.abs(off).max() < 0.1 * np.abs(effects[certain]).min()
    assert (np.abs(fit.coefficients - effects) < 5 * fit.std_errors).all()


@pytest.mark.parametrize("seed", range(5))
def test_an_outcome_that_never_changes_has_impacts_of_zero_whatever_its_gradients(seed: int) -> None:
    p, n, rng = 20, 300, np.random.default_rng(seed)
    masks, gradients = rng.random((n, p)) < 0.7, rng.normal(0.3, 1.0, (n, p))
    sums = GradientSums(
        *((masks * gradients).sum(axis=0), (~masks * gradients).sum(axis=0)),
        *((masks * gradients**2).sum(axis=0), (~masks * gradients**2).sum(axis=0)),
        *(masks.sum(axis=0).astype(float), (~masks).sum(axis=0).astype(float)),
    )
    fit = assisted(
        compress(Rows(lambda: iter([RowBlock((~masks).astype(np.float32), np.zeros((n, 1)), np.arange(n))]))), 0, sums
    )
    np.testing.assert_allclose(fit.coefficients, 0.0, atol=1e-9)
    assert (fit.std_errors < 1e-9).all()
