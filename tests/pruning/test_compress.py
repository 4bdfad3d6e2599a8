"""One call for few bytes: sizes are kept, candidates are compared on examples of their own, limits hold."""

from typing import Any

import keras
import numpy as np
import pytest
from conftest import says

import dropreg as dr
from dropreg.pruning import _compress


def predicted(model: Any, x: Any) -> np.ndarray:
    return model.predict(x, verbose=0)


FEW = dr.Recovery(epochs=2, distill=1.0)


@pytest.fixture(scope="module")
def mlp() -> Any:
    keras.utils.set_random_seed(0)
    parts = [keras.layers.Dense(n, activation="relu") for n in (60, 40)]
    return keras.Sequential([keras.Input((30,)), *parts, keras.layers.Dense(3)])


@pytest.fixture(scope="module")
def data(mlp: Any) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(400, 30)).astype("float32")
    return x, predicted(mlp, x).argmax(axis=1)


@pytest.mark.parametrize("share", [0.3, 0.12])
def test_the_file_fits(share, mlp, data, tmp_path):
    small = dr.compress(mlp, (data[0], None), bytes=share, bits=(4,), recovery=FEW)
    packed = small.save(tmp_path / "small.safetensors")
    assert packed.size == small.size <= share * small.size_before
    assert small.size_before == 4 * mlp.count_params()
    same = dr.unpack(packed.path)
    assert np.array_equal(predicted(same, data[0]), predicted(small.model, data[0]))
    agree = np.mean(predicted(same, data[0]).argmax(1) == data[1])
    assert agree > 0.6
    assert (small.candidates["fraction"] == 0).all() == (share == 0.3)


def test_candidates_differ_in_bits_and_the_closest_is_taken(mlp, data):
    small = dr.compress(mlp, (data[0], None), bytes=0.3, bits=(2, 4), recovery=FEW)
    frame = small.candidates
    assert frame["bits"].tolist() == [2, 4]
    assert frame["chosen"].tolist() == [False, True]
    assert frame["distance"][1] < frame["distance"][0]
    again = dr.compress(mlp, (data[0], None), bytes=0.3, bits=(2, 4), recovery=FEW)
    assert frame.equals(again.candidates)


def test_a_limit_is_tested_on_finished_models(mlp, data, monkeypatch):
    monkeypatch.setattr(_compress, "_SHARES", (0.4, 0.3, 0.25, 0.2))
    x = np.random.default_rng(1).normal(size=(300, 30)).astype("float32")
    limit = dr.AccuracyLimit(0.3, (x, predicted(mlp, x).argmax(axis=1)))
    small = dr.compress(mlp, (data[0], None), limit=limit, bits=(3,), recovery=FEW)
    limits = small.candidates["limit"].to_numpy()
    chosen = int(np.flatnonzero(small.candidates["chosen"])[0])
    assert (limits[: chosen + 1] <= 0.3).all()
    assert chosen == len(limits) - 1 or limits[chosen + 1] > 0.3
    assert (np.diff(small.candidates["bytes"]) < 0).all()


def test_errors(mlp, data):
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "exactly one of `bytes`, `latency` and `limit` must be given, received none"),
        ({"bytes": 0.1, "latency": 0.5}, "received bytes and latency"),
        ({"bytes": 1.5}, "`bytes` must lie strictly between 0 and 1"),
        ({"bytes": 0}, "`bytes` must be a share of the bytes or a positive number of them, received 0"),
        ({"bytes": 0.1, "bits": (1,)}, "`bits` must be whole numbers from 2 to 8, received 1"),
        ({"bytes": 0.1, "bits": ()}, "`bits` must hold at least one number"),
        ({"limit": 0.005}, "`limit` must be Limit, received float"),
    ]
    for given, text in cases:
        with pytest.raises(dr.errors.ParameterError, match=says(text)):
            dr.compress(mlp, (data[0], None), **given)
    with pytest.raises(dr.errors.TargetError, match=says("at most 500 bytes, but no candidate is that small")):
        dr.compress(mlp, (data[0][:50], None), bytes=500, bits=(2,), recovery=FEW)
