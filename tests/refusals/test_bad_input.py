"""Bad arguments are refused: the text says what was expected, what was received and what to do."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flat
import keras
import numpy as np
import pytest
from conftest import Labelled
from keras import layers

import dropreg as dr
from dropreg.errors import DataError, DropregError, ModelError, ParameterError

BATCH = 8  # rows of a forward pass, so that 128 rows make a chunk


def state_of(model: keras.Model) -> list[np.ndarray]:
    """Weights and, where the model has an input to feed, outputs."""
    state = [np.array(weight) for weight in model.get_weights()]
    if inputs := getattr(model, "inputs", None):
        probes = [np.linspace(-1, 1, 2 * int(np.prod(t.shape[1:]))).reshape(2, *t.shape[1:]) for t in inputs]
        state.append(np.asarray(model(probes[0] if len(probes) == 1 else probes)))
    return state


@contextmanager
def refused(error: type[DropregError], *says: str, model: keras.Model | None = None) -> Iterator[None]:
    """The block raises `error`, its text contains all of `says` in order, and `model` is unchanged."""
    before = [] if model is None else state_of(model)
    with pytest.raises(error, match=r".*".join(re.escape(part) for part in says)):
        yield
    after = [] if model is None else state_of(model)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def sample(model: keras.Model, data: Any, elements: dr.Elements, **changes: Any) -> dr.Record:
    defaults: dict[str, Any] = {"rows": 300, "batch_size": BATCH, "fidelity": None, "progress": False}
    return flat.sample(model, data, elements, **(defaults | changes))


@pytest.fixture(scope="module")
def record(model: keras.Model, data: Labelled, elements: dr.Elements) -> dr.Record:
    return sample(model, data, elements)


# --- models ----------------------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.hidden, self.out = layers.Dense(4), layers.Dense(3)

    def call(self, inputs: Any) -> Any:
        return self.out(self.hidden(inputs))


def not_built() -> keras.Model:
    return keras.Sequential([layers.Dense(4), layers.Dense(3)], name="lazy")


def subclassed_not_built() -> keras.Model:
    return Subclassed(name="ours")


def no_hidden_layer() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, name="out")], name="linear")


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (
            not_built,
            ("model 'lazy' is not built", "call model.build(input_shape), or begin it with keras.Input(shape)"),
        ),
        (subclassed_not_built, ("model 'ours' (Subclassed) is not built", "call it once on a batch of data")),
        (
            no_hidden_layer,
            ("'linear' has none of neurons that can be dropped ('out': ", "expected at least one hidden Dense"),
        ),
    ],
)
def test_model_without_elements(build: Callable[[], keras.Model], says: tuple[str, ...]) -> None:
    model = build()
    with refused(ModelError, *says, model=model):
        dr.elements(model)


@pytest.mark.parametrize("thing", ["model.keras", None, layers.Dense(3)])
def test_not_a_keras_model(thing: Any) -> None:
    kind = type(thing).__name__
    with refused(
        ModelError, f"`model` must be a keras.Model, received {kind}: load a saved one with keras.saving.load_model"
    ):
        dr.elements(thing)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"include": ["frist"]}, ("`include` names 'frist'", "some of first, second, out.", "Did you mean 'first'?")),
        ({"exclude": ["secnod"]}, ("`exclude` names 'secnod'", "some of first, second, out", "mean 'second'?")),
        ({"include": ["features"]}, ("`include` names 'features', which is no layer with units",)),
        (
            {"include": ["out", "first"]},
            ("`include` names 'out', whose units cannot be dropped: the model's output needs it. Leave it out.",),
        ),
        ({"include": "frist"}, ("`include` names 'frist'", "Did you mean 'first'?")),
        ({"exclude": [3]}, ("`exclude` must hold names of layers or layers of the model, received 3 (int)",)),
        (
            {"include": layers.Dense(5, name="first")},
            ("`include` must hold layers of model 'small', received the Dense layer 'first', which is not in it",),
        ),
        ({"kind": "synapses"}, ("`kind` must be one of neurons", "received 'synapses'")),
    ],
)
def test_layers_that_cannot_be_chosen(model: keras.Model, choice: dict[str, Any], says: tuple[str, ...]) -> None:
    with refused(ParameterError, *says, model=model):
        dr.elements(model, **choice)


def test_elements_of_another_model(model: keras.Model, data: Labelled) -> None:
    other = keras.Sequential([keras.Input((4,)), layers.Dense(5, name="first"), layers.Dense(3, name="out")])
    with refused(
        ModelError,
        "`elements` were found in another model than 'small', or it has changed since: ",
        "call dropreg.elements(model) again",
        model=model,
    ):
        sample(model, data, dr.elements(other))


def test_model_whose_outputs_are_not_finite(make_model: Callable[[], keras.Model], data: Labelled) -> None:
    model = make_model()
    weights = model.get_weights()
    weights[-1][0] = np.nan
    model.set_weights(weights)
    with refused(
        DataError,
        "model 'small' must give finite outputs, received NaN or infinity for 30 examples (examples 0, 1, 2, 3, 4 and ",
        "25 more): check its weights and the scale of the inputs",
        model=model,
    ):
        sample(model, data, dr.elements(model))


# --- examples and labels ---------------------------------------------------------------------------------------


def with_value(array: np.ndarray, value: float, *examples: int) -> np.ndarray:
    changed = array.astype(np.float64)
    changed[list(examples)] = value
    return changed


NOT_FINITE = ("input 'features' must be finite, received NaN or infinity in ", "(the first is example 3)", "remove")

BAD_EXAMPLES: dict[str, tuple[Callable[[np.ndarray], Any], tuple[str, ...]]] = {
    "wrong shape": (lambda x: x[:, :3], ("'features' must have shape (any, 4), received (30, 3).",)),
    "extra axis": (lambda x: x[..., None], ("'features' must have shape (any, 4), received (30, 4, 1).",)),
    "one example": (lambda x: x[0], ("'features' must have shape (any, 4), received (4,).",)),
    "strings": (lambda x: x.astype(str), ("'features' must be numbers (float32), received dtype <U",)),
    "objects": (lambda x: x.astype(object), ("'features' must be numbers (float32), received dtype object",)),
    "complex": (lambda x: x.astype(complex), ("'features' must be numbers (float32), received dtype complex",)),
    "nan": (lambda x: with_value(x, np.nan, 3, 7), NOT_FINITE),
    "infinity": (lambda x: with_value(x, np.inf, 3), NOT_FINITE),
    "minus infinity": (lambda x: with_value(x, -np.inf, 3), NOT_FINITE),
    "beyond float32": (lambda x: with_value(x, 1e300, 3), NOT_FINITE),
    "input of another name": (lambda x: {"pixels": x}, ("`x` must have the inputs features, received pixels.",)),
}


BAD_LABELS: dict[str, tuple[Callable[[np.ndarray], Any], tuple[str, ...]]] = {
    "counted from 1": (
        lambda y: np.where(np.arange(30) == 4, 3, 0),
        ("`y` must be classes 0 to 2, received 3 at example 4 (1 such labels): renumber the classes from 0",),
    ),
    "negative": (lambda y: np.where(y == y[0], -1, y), ("`y` must be classes 0 to 2, received -1 at example 0",)),
    "too few": (lambda y: y[:-1], ("`y` must have one label for each of 30 examples, received 29 labels.",)),
    "a single one": (lambda y: 1, ("`y` must have one label for each of 30 examples, received a single value.",)),
    "not integers": (lambda y: y + 0.5, ("`y` must be classes 0 to 2, received ", "at example 0 (30 such labels)")),
    "nan": (lambda y: with_value(y, np.nan, 5), ("`y` must be classes 0 to 2, received nan at example 5",)),
    "names": (
        lambda y: np.array(["cat", "dog", "eel"])[y],
        (
            "`y` must be integer classes or one-hot rows, received dtype <U3. Number the names, such as '",
            "', in the order of the model's outputs: y = np.array([names.index(name) for name in y]), or names, y = "
            "np.unique(y, return_inverse=True) if the outputs are in alphabetical order.",
        ),
    ),
    "other objects": (
        lambda y: np.array([object()] * len(y)),
        ("`y` must be integer classes or one-hot rows, received dtype object.",),
    ),
    "too wide": (lambda y: np.zeros((30, 2)), ("`y` must have shape (30,) or (30, 3), received (30, 2).",)),
}

BAD_DATA: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    **{name: (lambda x, y, change=change: (change(x), y), says) for name, (change, says) in BAD_EXAMPLES.items()},
    **{
        f"labels {name}": (lambda x, y, change=change: (x, change(y)), says)
        for name, (change, says) in BAD_LABELS.items()
    },
    "no examples": (lambda x, y: (x[:0], y[:0]), ("`data` must hold at least one example, received none.",)),
    "no pair": (lambda x, y: x, ("`data` must be a pair (x, y) or come in batches, received ndarray: pass (x, y).",)),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(model: keras.Model, data: Labelled, elements: dr.Elements, case: str) -> None:
    change, says = BAD_DATA[case]
    with refused(DataError, *says, model=model):
        sample(model, change(*data), elements)


def test_missing_channel_axis() -> None:
    model = keras.Sequential(
        [keras.Input((5, 6, 1), name="image"), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)]
    )
    with refused(
        DataError,
        "input 'image' must have shape (any, 5, 6, 1), received (4, 5, 6). Add the channel axis: x[..., np.newaxis].",
        model=model,
    ):
        sample(model, (np.zeros((4, 5, 6)), np.zeros(4, int)), dr.elements(model))


def test_nan_where_the_model_takes_integers() -> None:
    hidden = layers.Flatten()(layers.Embedding(5, 2)(inputs := keras.Input((3,), dtype="int32", name="words")))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(4)(hidden)))
    words = with_value(np.ones((4, 3)), np.nan, 2)
    with refused(DataError, "input 'words' must be finite, received NaN or infinity in 1 examples (the first is"):
        sample(model, (words, np.zeros(4, int)), dr.elements(model))


def test_model_without_an_axis_of_outputs(data: Labelled) -> None:
    inputs = keras.Input((4,), name="features")
    model = keras.Model(inputs, layers.Reshape((), name="flat")(layers.Dense(1)(layers.Dense(5)(inputs))))
    says = "the model's output 'flat' must have shape (batch, ..., n_outputs), received (None,)"
    with refused(DataError, says, model=model):
        sample(model, data, dr.elements(model))


def test_inputs_of_different_lengths() -> None:
    left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    hidden = layers.Dense(3)(layers.Concatenate()([left, right]))
    model = keras.Model([left, right], layers.Dense(3)(hidden))
    elements, y = dr.elements(model), np.zeros(4, int)
    with refused(DataError, "the same number of examples, received 4 for 'left' and 3 for 'right'", model=model):
        sample(model, ([np.zeros((4, 2)), np.zeros((3, 2))], y), elements)
    with refused(DataError, "`x` must hold 2 arrays (left, right), received one: pass a list or a dict"):
        sample(model, (np.zeros((4, 2)), y), elements)
    with refused(DataError, "`x` must hold 2 arrays (left, right), received 3."):
        sample(model, ([np.zeros((4, 2))] * 3, y), elements)


# --- parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, 1, 1.2, -0.1, np.nan, np.inf])
def test_rate_outside_the_unit_interval(rate: float) -> None:
    with refused(ParameterError, f"`rate` must lie strictly between 0 and 1, received {rate:g}."):
        dr.designs.Bernoulli(rate)
    with refused(ParameterError, f"`rate` must lie strictly between 0 and 1, received {rate:g}."):
        dr.designs.Bernoulli((0.5, rate, 0.5))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": 0}, "`rows` must be an integer of at least 1, received 0."),
        ({"rows": -5}, "`rows` must be an integer of at least 1, received -5."),
        ({"rows": 1e4}, "`rows` must be an integer of at least 1, received 10000.0."),
        ({"rows": True}, "`rows` must be an integer of at least 1, received True."),
        ({"rows": "300"}, "`rows` must be an integer of at least 1, received '300'."),
        ({"seed": -1}, "`seed` must be an integer from 0 to 2**64 - 1, received -1."),
        ({"seed": 0.5}, "`seed` must be an integer from 0 to 2**64 - 1, received 0.5."),
        ({"seed": 2**64}, "`seed` must be an integer from 0 to 2**64 - 1, received 18446744073709551616."),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1, received 0."),
        ({"outcomes": ["f1"]}, "`outcome` must be one of accuracy, retained, loss, margin, divergence, received 'f1'."),
        ({"outcomes": []}, "`outcomes` must be one or more different outcomes, received []."),
        ({"outcomes": ["loss", "loss"]}, "one or more different outcomes, received ['loss', 'loss']."),
        (
            {"design": dr.designs.Bernoulli((0.1, 0.2))},
            "`rate` must be a number or one for each of 9 elements, received 2.",
        ),
    ],
)
def test_bad_arguments_of_sample(
    model: keras.Model, data: Labelled, elements: dr.Elements, changes: dict[str, Any], says: str
) -> None:
    with refused(ParameterError, says, model=model):
        sample(model, data, elements, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": 0}, "`rows` must be an integer of at least 1, received 0."),
        ({"rows": 300.0}, "`rows` must be an integer of at least 1, received 300.0."),
        ({"rows": True}, "`rows` must be an integer of at least 1, received True."),
        ({"outcome": "f1"}, "`outcome` must be one of accuracy, retained, loss, margin, divergence, received 'f1'."),
        (
            {"rows": 10, "gradients": False},
            "10 rows cannot identify 9 elements by OLS: draw at least 90, or sample and pass ",
        ),
    ],
)
def test_bad_arguments_of_estimate(
    model: keras.Model, data: Labelled, elements: dr.Elements, changes: dict[str, Any], says: str
) -> None:
    with refused(ParameterError, says, model=model):
        flat.estimate(model, data, elements, progress=False, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"outcome": "f1"}, "one of the record's (accuracy, loss, margin), received 'f1': sample again with outcomes="),
        (
            {"estimator": "forest"},
            "`estimator` must be one of auto, corrected, assisted, gradient, ols, adjusted, ridge, marginal, "
            "received 'forest'.",
        ),
        ({"covariance": "HC2"}, "`covariance` must be one of HC1, HC3, cluster, nonrobust, received 'HC2'."),
        ({"penalty": 1.0}, "`penalty` must be None unless estimator is 'ridge', received 1.0 with 'auto'."),
        ({"penalty": -1.0, "estimator": "ridge"}, "`penalty` must be positive and finite, or 'evidence', received "),
        ({"penalty": np.nan, "estimator": "ridge"}, "`penalty` must be positive and finite, or 'evidence', received "),
        *[
            ({"level": level}, f"`level` must lie strictly between 0 and 1, received {level}.")
            for level in (0, 1, -0.5, 95, np.nan)
        ],
    ],
)
def test_bad_arguments_of_regress(record: dr.Record, changes: dict[str, Any], says: str) -> None:
    with refused(ParameterError, says):
        dr.regress(record, **changes)


@pytest.mark.parametrize("rows", [4, 8, 10])
def test_fewer_rows_than_ols_needs(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path, rows: int
) -> None:
    short = sample(model, data, elements, rows=rows, out=tmp_path / "run")
    says = f"{rows} rows cannot identify 9 elements by OLS: draw at least 90, or pass estimator='ridge', whose"
    with refused(ParameterError, says, model=model):
        dr.regress(short, outcome="loss")
    assert np.isfinite(dr.regress(short, outcome="loss", estimator="ridge", penalty=1.0).impact).all(), "remedy"


def test_a_single_row_is_too_few(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    says = "a regression must have at least two masks (or pairs), received one: draw more rows."
    with refused(ParameterError, says, model=model):
        flat.estimate(model, data, elements, rows=1, progress=False)
    single = sample(model, data, elements, rows=1)
    for estimator in ("ols", "ridge"):
        with refused(ParameterError, says):
            dr.regress(single, estimator=estimator)
    assert np.isfinite(flat.estimate(model, data, elements, rows=2, outcome="loss", progress=False).impact).all()


def test_clusters_of_one_example(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    one = sample(model, (data[0][:1], data[1][:1]), elements)
    says = "`covariance='cluster'` must have at least two examples, received a record of one: pass covariance='HC1'."
    with refused(ParameterError, says):
        dr.regress(one, outcome="loss", covariance="cluster")
    with refused(ParameterError, says):
        dr.regression.to_statsmodels(one, outcome="loss", covariance="cluster")
    assert (dr.regress(one, outcome="loss").std_error > 0).all(), "the remedy must work"


def test_element_that_is_dropped_in_every_row(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    constant = sample(model, data, elements, design=dr.designs.Bernoulli((1 - 2**-32, *[0.3] * 8)))
    with refused(ParameterError, "received 1 that never change (first[0]): draw more rows, or pass estimator="):
        dr.regress(constant)


@pytest.mark.parametrize("n", [0, -3])
def test_top_of_no_elements(record: dr.Record, n: int) -> None:
    with refused(ParameterError, f"`n` must be an integer of at least 1, received {n}."):
        dr.regress(record).top(n)
