"""Several outputs, mixed precision, and data that come in batches or lie on disk."""

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from test_kinds import inputs, masked, randomized

import dropreg as dr


def two_outputs() -> keras.Model:
    x = inputs = keras.Input((6,), name="x")
    x = layers.Dense(5, activation="relu", name="trunk")(x)
    first = layers.Dense(3, name="first")(layers.Dense(4, activation="relu", name="own")(x))
    return randomized(keras.Model(inputs, [first, layers.Dense(1, name="second")(x)]))


def test_an_outcome_is_measured_on_the_output_chosen() -> None:
    model = two_outputs()
    x = inputs(model, 50)
    y = [np.random.default_rng(0).integers(0, 3, 50), np.random.default_rng(1).normal(size=50)]
    elements = dr.elements(model)
    with pytest.raises(dr.DataError, match=r"`output` must say which .*\(first, second\), received none"):
        dr.sample(model, (x, y), elements, rows=64, progress=False)
    first = dr.estimate(model, (x, y), elements, rows=5_000, outcome="loss", output="first", progress=False)
    assert (first.impact != 0).all()
    second = dr.estimate(
        *(model, (x, dict(zip(["first", "second"], y, strict=True))), elements),
        rows=5_000,
        outcome="loss",
        output=1,
        progress=False,
    )
    unread = np.array(elements.layers) == "own"
    assert np.abs(second.impact[unread]).max() < 4 * second.std_error.max()
    assert np.abs(second.impact[~unread]).max() > 10 * np.abs(second.impact[unread]).max()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy: str) -> None:
    """Masked equals zeroed to the precision that the layers compute in."""
    x = inputs_tensor = keras.Input((6,))
    x = layers.Dense(5, activation="relu", name="a", dtype=policy)(x)
    model = keras.Model(inputs_tensor, layers.Dense(3, name="out", dtype=policy)(x))
    randomized(model)
    for kind in ("neurons", "weights"):
        elements, x = dr.elements(model, kind), inputs(model, 5)
        record = dr.sample(
            *(model, (x, np.arange(5) % 3), elements),
            rows=1280,
            gradients=("loss",),
            progress=False,
        )
        assert np.isfinite(dr.regress(record, outcome="loss").impact).all()
    mask = np.array([[True, False, True, False, True]])
    found = masked(model, dr.elements(model), x, np.repeat(mask, 5, axis=0)).astype(np.float32)
    kernel, bias = model.get_layer("out").get_weights()
    model.get_layer("out").set_weights([kernel * mask.T, bias])
    np.testing.assert_allclose(found, np.asarray(model(x)).astype(np.float32), rtol=0.05, atol=0.05)


class Batches(keras.utils.PyDataset):
    """Batches of 8 of arrays."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        self.x, self.y = x, y

    def __len__(self) -> int:
        return (len(self.x) + 7) // 8

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.x[8 * index : 8 * index + 8], self.y[8 * index : 8 * index + 8]


@pytest.mark.parametrize("source", ["tf.data", "generator", "PyDataset", "memmap"])
def test_data_may_come_in_batches_or_lie_on_disk(source: str, tmp_path) -> None:
    model = models.build("cnn")
    x, y = models.data_for(model, 30)
    elements = dr.elements(model)
    if source == "tf.data":
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(7)
    elif source == "generator":
        data = ((x[k : k + 4], y[k : k + 4]) for k in range(0, 30, 4))
    elif source == "PyDataset":
        data = Batches(x, y)
    else:
        np.save(tmp_path / "x.npy", x)
        data = (np.load(tmp_path / "x.npy", mmap_mode="r"), y)
    options = {"rows": 300, "fidelity": None, "progress": False}
    found, expected = (dr.sample(model, d, elements, **options) for d in (data, (x, y)))
    for one, other in zip(found.chunks(), expected.chunks(), strict=True):
        np.testing.assert_array_equal(one.effects, other.effects)
