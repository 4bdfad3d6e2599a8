"""Networks whose true impacts follow exactly, by adding up distributions."""

import keras
import numpy as np
from keras import layers

Pair = tuple[np.ndarray, np.ndarray]


def network(n_elements: int, seed: int, *, weights: tuple[float, ...] = (-2.0, -1.0, 1.0, 2.0)) -> keras.Model:
    """A network with whole-number activations; every second unit has no outgoing weight.

    Parameters
    ----------
    n_elements, seed : int
    weights : tuple of float
        Outgoing weights, whole numbers, drawn from for the other units.
    """
    rng = np.random.default_rng(seed)
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(n_elements, activation="relu", name="units"), layers.Dense(1, name="out")]
    )
    kernel = rng.integers(-1, 2, size=(8, n_elements)).astype(float)
    bias = rng.integers(0, 2, size=n_elements).astype(float)
    outgoing = rng.choice(weights, size=(n_elements, 1))
    outgoing[1::2] = 0.0
    model.get_layer("units").set_weights([kernel, bias])
    model.get_layer("out").set_weights([outgoing, np.array([0.5])])
    return model


def examples(model: keras.Model, n: int, seed: int, *, rare: float = 1.0) -> Pair:
    """Whole-number inputs, and labels that agree with the model in four cases of five.

    Of the examples with label 1 a share `rare` is kept, so that there are fewer of them; there are `n` in all.
    """
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, size=(int(4 * n / min(rare, 1.0)) if rare < 1 else n, 8)).astype(np.float32)
    says = np.asarray(model(x))[:, 0] > 0
    y = np.where(rng.random(len(x)) < 0.8, says, ~says).astype(np.int64)
    if rare < 1:
        kept = np.flatnonzero((y == 0) | (rng.random(len(y)) < rare))[:n]
        x, y = x[kept], y[kept]
    return x, y


def true_impacts(model: keras.Model, data: Pair, rate: float) -> dict[str, np.ndarray]:
    """Exact impacts on loss, accuracy and divergence: the output is a sum of independent whole numbers.

    Their distributions at a drop rate are convolved.
    """
    x, y = data
    outgoing = model.get_layer("out").get_weights()[0][:, 0]
    each = (np.asarray(model.get_layer("units")(x)) * outgoing).round().astype(int)
    reach = int(np.abs(each).sum(axis=1).max()) + 1
    outputs = np.arange(-reach, reach + 1) + 0.5
    impacts = {name: np.zeros(each.shape[1]) for name in ("loss", "accuracy", "divergence")}
    for adds, label in zip(each, y, strict=True):
        towards = outputs if label else -outputs
        log_p, log_q = -np.logaddexp(0.0, -outputs), -np.logaddexp(0.0, outputs)
        whole = adds.sum() + 0.5
        p, q = 1.0 / (1.0 + np.exp(-whole)), 1.0 / (1.0 + np.exp(whole))
        divergence = p * (-np.logaddexp(0.0, -whole) - log_p) + q * (-np.logaddexp(0.0, whole) - log_q)
        worse = {"loss": np.logaddexp(0.0, -towards), "accuracy": -(towards > 0).astype(float)}
        for j in np.flatnonzero(adds):
            others = np.zeros(len(outputs))
            others[reach] = 1.0
            for value in np.delete(adds, j):
                if value:
                    others = (1 - rate) * np.roll(others, value) + rate * others
            for name, values in (worse | {"divergence": divergence}).items():
                impacts[name][j] += (others @ values - np.roll(others, adds[j]) @ values) / len(y)
    return impacts
