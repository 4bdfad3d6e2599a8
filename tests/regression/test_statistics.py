"""Pairs, fidelity, equivalence and interactions of regressions on a small network."""

import flat
import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers
from runs import small
from scipy import stats

import dropreg as dr
from dropreg._utils._draws import examples_of_rows
from dropreg.errors import ParameterError
from dropreg.regression._compression import observations
from dropreg.regression._fidelity import fidelity_table
from dropreg.sampling._runner import share_of_noise


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
    """The outcome without drops cancels within pairs, and must not be lost."""
    record = flat.sample(*small(), rows=2_000, design=dr.designs.Paired(0.25), outcomes="loss", progress=False)
    found = dr.regress(record, outcome="loss", paired=True)
    assert found.fidelity is not None
    assert record.fidelity_masks is not None
    left = [block.y[:, 0] - block.x @ found.impact for block in observations(record).blocks()]
    expected = fidelity_table(record.fidelity_masks, 0, found.impact, float(np.concatenate(left).mean()))
    np.testing.assert_allclose(found.fidelity["r2"], expected["r2"], rtol=1e-5)


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


def test_negligible_elements_are_tested_for_equivalence() -> None:
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
    record = flat.sample(model, (x, y), elements, outcomes="loss", rows=100_000, fidelity=None)
    table = dr.regress(record, outcome="loss", interactions=True)
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


@pytest.mark.parametrize("names", [("loss", "accuracy"), ("accuracy", "loss"), ("margin",)])
def test_the_default_outcome_is_the_first_of_the_record(names: tuple[str, ...]) -> None:
    record = dr.sample(*small(), rows=500, outcomes=names, progress=False)
    default, named = dr.regress(record, estimator="ols"), dr.regress(record, outcome=names[0], estimator="ols")
    assert default.outcome == names[0]
    pd.testing.assert_frame_equal(default.to_frame(), named.to_frame())
    assert dr.regression.to_statsmodels(record).model.endog_names == names[0]


def test_elements_that_are_never_dropped_are_refused_by_ols_and_taken_by_ridge() -> None:
    rare = flat.sample(*small(), rows=40, design=dr.designs.Bernoulli(0.02), progress=False)
    with pytest.raises(ParameterError, match=r"that never change .*draw more rows, or pass estimator='ridge'"):
        dr.regress(rare, outcome="loss", estimator="ols")
    assert np.isfinite(dr.regress(rare, outcome="loss", estimator="ridge").impact).all()
