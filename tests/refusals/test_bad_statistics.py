"""Regressions, and questions to their tables, that the record or the table cannot answer are refused by name."""

from collections.abc import Callable

import flat
import pytest
from runs import small

import dropreg as dr
from dropreg.errors import DropregError, ParameterError, RecordError


@pytest.fixture(scope="module")
def record() -> dr.Record:
    return flat.sample(*small(), rows=2000, progress=False)


@pytest.mark.parametrize(
    ("use", "error", "text"),
    [
        (
            lambda record: dr.regress(record, paired=True),
            ParameterError,
            r"`paired=True` must have masks in pairs, received a record of Bern",
        ),
        (
            lambda record: dr.regress(record, outcome="loss", estimator="assisted"),
            RecordError,
            r"must hold gradients of 'loss', received none: sample ",
        ),
        (
            lambda record: dr.regress(record, estimator="ridge", level=0.9),
            ParameterError,
            r"`level` must be left out with estimator='ridge', whose tables have no intervals, received 0\.9: pass",
        ),
        (
            lambda record: dr.regress(record).redundant_pairs(),
            ParameterError,
            r"must have interactions, received a table without",
        ),
        (
            lambda record: dr.regress(record).negligible(0),
            ParameterError,
            r"`margin` must be positive and finite, received 0",
        ),
        (
            lambda record: dr.scorers.random(small()[0], None, small()[2]).negligible(0.1),
            ParameterError,
            r"`negligible` must have intervals that cover, received random with no standard errors: use .*'ols'",
        ),
        (
            lambda record: dr.regress(record, estimator="ridge").negligible(0.1),
            ParameterError,
            r"must have intervals that cover, received ridge with posterior standard errors, which need not cover: use",
        ),
        (
            lambda record: dr.scorers.taylor(*small(), rows=30).negligible(0.1),
            ParameterError,
            r"must have intervals that cover, received Taylor, order 1, mean with standard errors of sampling only",
        ),
        (
            lambda record: flat.sample(*small(), rows=10, design=dr.designs.Paired(0.2, examples_per_mask=3)),
            ParameterError,
            r"`rows` must be a multiple of 6 .* pass rows=12",
        ),
        (
            lambda record: flat.sample(*small(), rows=10, outcomes="loss", gradients=("margin",)),
            ParameterError,
            r"`gradients` must name measured outcomes \(loss\), received 'margin'",
        ),
    ],
)
def test_bad_questions_to_records(
    record: dr.Record, use: Callable[[dr.Record], object], error: type[DropregError], text: str
) -> None:
    with pytest.raises(error, match=text):
        use(record)
