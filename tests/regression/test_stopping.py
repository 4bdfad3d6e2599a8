"""Laws of stop rules: what they look at, and that they say so."""

import flat
from runs import small

import dropreg as dr


def test_stop_rules_end_the_run_and_are_reported() -> None:
    rule = dr.Precision("loss", 0.02)
    first, again = (
        flat.sample(*small(), rows=2_000_000, batch_size=64, outcomes="loss", stop=rule, progress=False)
        for _ in range(2)
    )
    assert first.stop is not None
    assert first.rows == again.rows < 2_000_000
    table = dr.regress(first, outcome="loss")
    assert f"stopped after {first.rows:,} rows because" in repr(table)
    assert "which does not look at the impacts" in repr(table)
    assert table.std_error.max() <= 0.02


def test_stop_rules_count_pairs() -> None:
    """The first looks come after fewer pairs than OLS needs, though not fewer masks."""
    design, rule = dr.designs.Paired(0.25), dr.Precision("loss", 0.05)
    record = flat.sample(
        *small(), rows=20_000, batch_size=1, design=design, outcomes="loss", stop=rule, fidelity=None, progress=False
    )
    assert record.stop is not None
    assert record.rows < 20_000


def test_a_run_whose_rule_is_not_met_is_complete() -> None:
    record = flat.sample(*small(), rows=3000, batch_size=64, stop=dr.Precision("loss", 1e-9), progress=False)
    assert record.rows == 3000
    assert record.stop is None
