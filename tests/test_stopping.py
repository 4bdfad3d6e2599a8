"""Laws of stop rules: what they look at, and that they say so."""

from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_statistics import small

import dropreg as dr
from dropreg.compression import compress, observations
from dropreg.regression import ols


@pytest.mark.parametrize(
    "rule", [dr.Precision("loss", 0.02), dr.StableOrder("loss", 0.9), dr.Separated("loss", 0.4, undecided=0.3)]
)
def test_stop_rules_end_the_run_and_say_so(rule: dr.StopRule) -> None:
    first, again = (
        dr.sample(*small(), rows=2_000_000, batch_size=64, outcomes="loss", stop=rule, progress=False) for _ in range(2)
    )
    assert first.stop is not None
    assert first.rows == again.rows < 2_000_000
    table = dr.regress(first, outcome="loss")
    assert f"stopped after {first.rows:,} rows because" in repr(table)
    assert rule.effect in repr(table)
    if isinstance(rule, dr.Precision):
        assert table.std_error.max() <= 0.02


@pytest.mark.parametrize("rule", [dr.Precision("loss", 0.05), dr.StableOrder("loss", 0.9)])
def test_stop_rules_count_pairs(rule: dr.StopRule) -> None:
    """The first looks come after fewer pairs than OLS needs, though not fewer masks."""
    design = dr.Paired(0.25)
    record = dr.sample(
        *small(), rows=20_000, batch_size=1, design=design, outcomes="loss", stop=rule, fidelity=None, progress=False
    )
    assert record.stop is not None
    assert record.rows < 20_000


def test_stable_order_compares_halves_of_the_pairs() -> None:
    """Masks of a pair are not independent, so neither half may hold one of every pair."""
    record = dr.sample(*small(), rows=600, design=dr.Paired(0.25), outcomes="loss", fidelity=None, progress=False)
    reason = dr.StableOrder("loss", 1e-9).check(record)
    rows = observations(record, paired=True)
    first, second = (ols(compress(half), half, 0, "nonrobust") for half in (rows.every(2, 0), rows.every(2, 1)))
    correlation = stats.spearmanr(first.coefficients, second.coefficients).statistic
    assert reason is not None
    assert f"(reliability {2 * correlation / (1 + correlation):.3f})" in reason


@pytest.mark.parametrize("examples", [16, 4])
def test_halves_do_not_depend_on_chunks(examples: int) -> None:
    """A chunk of one mask has nothing for one of the halves."""
    settings: dict[str, Any] = {"outcomes": "loss", "design": dr.Bernoulli(0.4, examples_per_mask=examples)}
    record = dr.sample(*small(), rows=40 * examples, batch_size=1, fidelity=None, progress=False, **settings)
    halves = [list(observations(record).every(2, first).blocks()) for first in (0, 1)]
    whole = list(observations(record).blocks())
    assert {len(block.y) for block in whole} == {16 // examples}
    for first, half in enumerate(halves):
        expected = np.concatenate([block.y for block in whole])[first::2]
        np.testing.assert_array_equal(np.concatenate([block.y for block in half]), expected)
    reason = dr.StableOrder("loss", 1e-9).check(record)
    assert reason is None or "reliability" in reason


def test_a_rule_that_is_not_met_runs_to_the_end() -> None:
    record = dr.sample(*small(), rows=3000, batch_size=64, stop=dr.Precision("loss", 1e-9), progress=False)
    assert record.rows == 3000
    assert record.stop is None
