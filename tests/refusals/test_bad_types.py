"""Arguments of another type than expected are refused by name, never by an internal error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import flat
import keras
import numpy as np
import pandas as pd
import pytest
from conftest import Labelled
from sklearn.linear_model import LogisticRegression
from test_bad_input import refused, sample

import dropreg as dr
from dropreg.errors import ParameterError
from dropreg.reporting import _plots as plotting

untyped: Any = dr  # takes what a type checker refuses


@pytest.fixture(scope="module")
def record(model: keras.Model, data: Labelled, elements: dr.Elements) -> dr.Record:
    return sample(model, data, elements)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: untyped.designs.Bernoulli(0.3, examples_per_mask=2.0),
            "`examples_per_mask` must be an integer of at least 1, re",
        ),
        (
            lambda: untyped.designs.Bernoulli(0.3, examples_per_mask=0),
            "`examples_per_mask` must be an integer of at least 1, rec",
        ),
        (lambda: untyped.designs.Paired(0.2, examples_per_mask="3"), "must be an integer of at least 1, received '3'."),
        (
            lambda: untyped.designs.Bernoulli("high"),
            "`rate` must be a number or one for each element, received 'high'.",
        ),
        (lambda: untyped.designs.Fidelity(3.5, 10), "`masks` must be an integer of at least 3, received 3.5."),
        (lambda: untyped.designs.Fidelity(3, 1), "`examples` must be an integer of at least 2, received 1."),
        (lambda: untyped.Precision("loss", "fine"), "`std_error` must be positive and finite, received 'fine'."),
        (lambda: untyped.Budget("params", "half"), "received 'half': the fraction of the original model to keep."),
        (
            lambda: untyped.Budget("params", True),
            "`at_most` must lie strictly between 0 and 1, received True: the frac",
        ),
        (lambda: untyped.AccuracyLimit("5%", None), "received '5%': 0.005 is half a percentage point."),
        (
            lambda: untyped.AccuracyLimit(0.1, None, level="95"),
            "`level` must lie strictly between 0.5 and 1, received '95'.",
        ),
        (
            lambda: untyped.merging.LeastSquares(held_out="all"),
            "`held_out` must lie strictly between 0 and 1, received 'all'.",
        ),
        (
            lambda: untyped.merging.LeastSquares(batch_size=2.5),
            "`batch_size` must be an integer of at least 1, received 2.5.",
        ),
        (lambda: untyped.Recovery(held_out="all"), "`held_out` must lie strictly between 0 and 1, received 'all'."),
        (lambda: untyped.Recovery(learning_rate="a"), "`learning_rate` must be positive and finite, received 'a'."),
        (lambda: untyped.Recovery(learning_rate=True), "`learning_rate` must be positive and finite, received True."),
        (lambda: untyped.Recovery(learning_rate=np.ones(2)), "must be positive and finite, received array([1., 1.])."),
        (lambda: untyped.Recovery(bold_rate="a"), "`bold_rate` must be above `learning_rate` and finite, received 'a'"),
        (
            lambda: untyped.Recovery(distill="a"),
            "`distill` must lie in [0, 1], received 'a': 0 learns from labels only.",
        ),
        (lambda: untyped.Recovery(mixup=None), "`mixup` must lie in [0, 1], received None: 0 mixes no examples."),
        (lambda: untyped.Recovery(temperature="a"), "`temperature` must be positive and finite, received 'a'."),
        (lambda: untyped.Recovery(optimizer=keras.optimizers.SGD()), "`optimizer` must be the name of a Keras optimiz"),
        (lambda: untyped.Recovery(optimizer="LossScaleOptimizer"), "such as 'adam' or 'sgd', received 'LossScaleOpt"),
        (lambda: untyped.pruning.Schedule(learning_rate="a"), "`learning_rate` must be a number, received 'a'."),
        (lambda: untyped.pruning.Schedule(interactions=None), "`interactions` must be a number, received None."),
        (lambda: untyped.Budget("latency", 0.5, 0), "`batch_size` must be an integer of at least 1, received 0."),
    ],
)
def test_settings(make: Callable[[], object], says: str) -> None:
    with refused(ParameterError, says):
        make()


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda m, d, e: untyped.recover(m, d, recovery="distill"), "`recovery` must be Recovery, received str: pass"),
        (
            lambda m, d, e: flat.prune_iteratively(m, d, e, fraction=0.5, recovery="distill", tuning=d),
            "`recovery` must be Recovery, received str: pass dropreg.Recovery(distill=1.0), say.",
        ),
        (lambda m, d, e: untyped.select(e, ["a"] * len(e), fraction=0.5), "one for each element, received list: pass"),
        (lambda m, d, e: flat.anneal(m, d, e, fraction=0.5, start="a"), "`start` must be finite numbers of shape ("),
        (lambda m, d, e: flat.anneal(m, d, e, fraction=0.5, schedule="cubic"), "`schedule` must be Schedule, receiv"),
        (lambda m, d, e: flat.anneal(m, d, e, fraction=0), "`fraction` must lie strictly between 0 and 1, received"),
        (lambda m, d, e: untyped.prune(m, data=d, fraction=1e-3), "`fraction` must remove at least one of the"),
        (
            lambda m, d, e: untyped.remove(m, d),
            "received tuple: make one with dropreg.select, or call dropreg.prune with data and a",
        ),
        (
            lambda m, d, e: untyped.Selection.random(e, 0.5, seed=-1),
            "`seed` must be an integer of at least 0, received",
        ),
        (
            lambda m, d, e: flat.anneal(m, d, untyped.elements(m, ["neurons", "weights"]), fraction=0.5),
            "`elements` must not mix weights with other kinds, received neuron, weight: anneal one kind after the",
        ),
    ],
)
def test_arguments_of_pruning(
    model: keras.Model, data: Labelled, elements: dr.Elements, use: Callable[..., object], says: str
) -> None:
    with refused(ParameterError, says, model=model):
        use(model, data, elements)


def test_numbers_of_numpy_will_do() -> None:
    assert untyped.designs.Bernoulli(np.float32(0.5), examples_per_mask=np.int64(2)).settings() == {
        "name": "Bernoulli",
        "examples_per_mask": 2,
        "rate": 0.5,
    }
    assert untyped.Precision("loss", np.float32(0.5)).std_error == 0.5


@pytest.mark.parametrize("elements", ["neurons", ["first"], None])
@pytest.mark.parametrize(
    "use",
    [
        sample,
        flat.estimate,
        lambda *arguments: flat.estimate(*arguments, design=untyped.designs.Bernoulli(0.3)),
        dr.scorers.taylor,
        dr.compare,
        lambda model, data, elements: flat.anneal(model, data, elements, fraction=0.5),
        lambda model, data, elements: dr.prune(model, data=data, elements=elements, fraction=0.5),
        lambda model, data, elements: dr.select(elements, [1.0], fraction=0.5),
        lambda model, data, elements: dr.Selection.random(elements, 0.5),
    ],
    ids=["sample", "estimate", "with a design", "taylor", "compare", "anneal", "prune", "select", "random"],
)
def test_elements(model: keras.Model, data: Labelled, use: Callable[..., Any], elements: Any) -> None:
    elements = {"first": 5} if elements is None else elements
    says = f"`elements` must be Elements, received {type(elements).__name__}: call dropreg.elements(model)."
    with refused(ParameterError, says, model=model):
        use(model, data, elements)


@pytest.mark.parametrize("kind", [None, 5])
def test_kinds(model: keras.Model, kind: Any) -> None:
    with refused(ParameterError, "`kind` must be one of neurons, ", f", or several of them, received {kind!r}."):
        dr.elements(model, kind)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"design": "bernoulli"}, "`design` must be Design, received str: pass dropreg.designs.Bernoulli(rate)."),
        ({"design": 0.3}, "`design` must be Design, received float: pass dropreg.designs.Bernoulli(rate)."),
        ({"stop": 0.01}, "`stop` must be StopRule, received float: pass dropreg.Precision(outcome, std_error)."),
        ({"fidelity": 5}, "`fidelity` must be Fidelity, received int: pass dropreg.designs.Fidelity(masks, examples)."),
    ],
)
def test_arguments_of_sample(
    model: keras.Model, data: Labelled, elements: dr.Elements, changes: dict[str, Any], says: str
) -> None:
    with refused(ParameterError, says, model=model):
        sample(model, data, elements, **changes)
    if "design" in changes:
        with refused(ParameterError, says, model=model):
            flat.estimate(model, data, elements, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"level": "95"}, "`level` must lie strictly between 0 and 1, received '95'."),
        *[
            ({"estimator": "ridge", "penalty": penalty}, "`penalty` must be positive and finite, or 'evidence', recei")
            for penalty in (np.inf, True, [1.0, 2.0])
        ],
        (
            {"estimator": LogisticRegression()},
            "`estimator` must be one of auto, corrected, assisted, gradient, ols, adjusted, ridge, marginal, rec",
        ),
    ],
)
def test_arguments_of_regress(record: dr.Record, changes: dict[str, Any], says: str) -> None:
    with refused(ParameterError, says):
        untyped.regress(record, **changes)


def test_objects_other_than_records_are_refused() -> None:
    says = "`record` must be Record, received str: call dropreg.sample, or dropreg.Record.load(folder)."
    with refused(ParameterError, says):
        untyped.regress("run")


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda table: table.top(2.5), "`n` must be an integer of at least 1, received 2.5."),
        (lambda table: table.negligible("small"), "`margin` must be positive and finite, received 'small'."),
        (lambda table: table.negligible(0.1, level="5%"), "`level` must lie strictly between 0 and 1, received '5%'."),
        (lambda table: table.redundant_pairs(level=5), "`level` must lie strictly between 0 and 1, received 5."),
    ],
)
def test_bad_arguments_of_table_methods(record: dr.Record, ask: Callable[[dr.ImpactTable], object], says: str) -> None:
    with refused(ParameterError, says):
        ask(untyped.regress(record, interactions=True))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": 0}, "`seeds` must be a list, received 0: pass [0]."),
        ({"seeds": (0.5,)}, "`seeds` must be an integer of at least 0, received 0.5."),
        ({"seeds": (-1,)}, "`seeds` must be an integer of at least 0, received -1."),
        ({"fractions": 0.5}, "`fractions` must be a list, received 0.5: pass [0.5]."),
        ({"fractions": ("half",)}, "`fraction` must lie in [0, 1), received 'half'"),
    ],
)
def test_arguments_of_compare(
    model: keras.Model, data: Labelled, elements: dr.Elements, changes: dict[str, Any], says: str
) -> None:
    with refused(ParameterError, says, model=model):
        dr.compare(model, data, elements, scorers={"magnitude": dr.scorers.magnitude}, progress=False, **changes)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"models": "small.keras"}, "`models` must be Mapping, received str: pass {'original': model}."),
        ({"batch_sizes": 8}, "`batch_sizes` must be a list, received 8: pass [8]."),
        ({"repeats": 2.5}, "`repeats` must be an integer of at least 1, received 2.5."),
    ],
)
def test_arguments_of_measure_latency(arguments: dict[str, Any], says: str) -> None:
    with refused(ParameterError, says):
        untyped.measure_latency(**({"models": {}} | arguments))


def test_figures(tmp_path: Path) -> None:
    frame = pd.DataFrame({"scorer": ["a"], "fraction": [0.5], "accuracy": [0.9]})
    path = tmp_path / "figure.png"
    with refused(ParameterError, "`frame` must be DataFrame, received NoneType: call dropreg.compare."):
        untyped.reporting.plot_comparison(None, path)
    with refused(ParameterError, "received scorer, fraction, accuracy without f1: ", "value='accuracy' or 'loss'"):
        untyped.reporting.plot_comparison(frame, path, value="f1")
    with refused(ParameterError, "`path` must end in ", ".png", f", received {tmp_path / 'figure.xyz'}."):
        untyped.reporting.plot_comparison(frame, tmp_path / "figure.xyz")
    with refused(ParameterError, "expected an existing folder, received ", "missing: make it first."):
        untyped.reporting.plot_comparison(frame, tmp_path / "missing" / "figure.png")
    with refused(ParameterError, "`table` must be ImpactTable, received DataFrame: call dropreg.estimate or"):
        plotting.plot_impacts(cast(Any, frame), path)
    assert not list(tmp_path.iterdir())
    untyped.reporting.plot_comparison(frame, path)
    assert path.stat().st_size > 0
