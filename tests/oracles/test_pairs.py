"""Standard errors from masks that come in pairs, on a known set function."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dropreg as dr
from dropreg.regression._compression import RowBlock, Rows, compress
from dropreg.regression._interactions import interactions
from dropreg.regression._ols import marginal, ols

P, N, SEEDS = 4, 800, 200
MAIN, TOGETHER = np.array([0.1, 0.5, -0.3, 0.0]), 0.8


def pairs(rate: float, seed: int) -> Rows:
    """Impacts, an interaction of the first two elements, an effect of the example that pairs share, and noise."""
    rng = np.random.default_rng(seed)
    masks = dr.designs.Paired(rate).draw(seed=seed, chunk=0, n_masks=N, n_elements=P)
    dropped, example = (~masks).astype(float), np.arange(N) // 2
    y = dropped @ MAIN + TOGETHER * dropped[:, 0] * dropped[:, 1]
    y += 0.5 * rng.normal(size=N // 2)[example] + 0.3 * rng.normal(size=N)

    def blocks() -> Iterator[RowBlock]:
        for start in range(0, N, 100):
            part = slice(start, start + 100)
            yield RowBlock(dropped[part].astype(np.float32), y[part, None], example[part])

    return Rows(blocks, group=2)


@pytest.mark.parametrize("rate", [0.2, 0.49])
def test_errors_are_the_spread_of_estimates(rate: float) -> None:
    """Of interactions, and of OLS and marginal regression of the single rows; and intervals cover."""
    upper, names = np.triu_indices(P, 1), tuple("abcd")
    found: dict[str, list] = {"interactions": [], "OLS": [], "marginal": []}
    for seed in range(SEEDS):
        rows = pairs(rate, seed)
        fit, alone = ols(compress(rows), rows, 0, "HC1"), marginal(rows, 0, np.full(P, rate))
        both = interactions(rows, 0, fit, np.full(P, rate), names, 1.0)
        found["interactions"].append((both.values[upper], both.std_error[upper]))
        found["OLS"].append((fit.coefficients, fit.std_errors))
        found["marginal"].append((alone.coefficients, alone.std_errors))
    single = MAIN + TOGETHER * rate * np.array([1, 1, 0, 0])
    truth = {"interactions": np.array([TOGETHER, 0, 0, 0, 0, 0]), "OLS": single, "marginal": single}
    for name, of_seeds in found.items():
        values, errors = np.array(of_seeds).transpose(1, 0, 2)
        ratio = np.sqrt((errors**2).mean() / values.var(axis=0, ddof=1).mean())
        assert ratio == pytest.approx(1.0, abs=0.08), name
        assert 0.92 < np.mean(np.abs(values - truth[name]) < 1.96 * errors) < 0.975, name


def test_pairs_without_any_interaction_are_marked() -> None:
    """An error of zero is no certainty."""
    values, errors = np.array([[0.0, 0.0, 0.3], [0.0, 0.0, 0.2], [0.3, 0.2, 0.0]]), np.full((3, 3), 0.1)
    errors[0, 1] = errors[1, 0] = errors[1, 2] = errors[2, 1] = 0.0
    frame = dr.regression.Interactions(("a", "b", "c"), values, errors).pairs()
    assert not frame.isna().any(axis=None)
    found: Any = frame.set_index(["element", "other"])
    assert found.loc[("a", "b"), ["z", "p_value", "no_change"]].tolist() == [0.0, 1.0, True]
    assert found.loc[("b", "c"), ["z", "p_value", "no_change"]].tolist() == [0.0, 1.0, False]
    assert found.loc[("a", "c"), "p_value"] == pytest.approx(0.0027, abs=1e-4)
