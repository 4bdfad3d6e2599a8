"""Packed models: no loss, near the entropy, and nothing from a file is trusted."""

import hashlib
import json
import struct
import zlib
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
from conftest import says
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from models import BUILDERS, inputs_for, ready

import dropreg as dr
from dropreg.surgery._storage import _range_coder
from dropreg.surgery._storage._codings import decode_array, encode_array
from dropreg.surgery._storage._range_coder import decode, encode, entropy_bits

TYPES = ("float32", "float16", "bfloat16", "float64", "int8", "int32", "uint32", "bool")


def drawn(seed: int, n: int, n_values: int, kept: float, kind: str) -> np.ndarray:
    """`n` numbers, a share `kept` of which is not zero, with at most `n_values` different ones (0: no limit)."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=n) if n_values == 0 else rng.normal(size=n_values)[rng.integers(0, n_values, n)]
    if np.dtype(getattr(ml_dtypes, kind, kind)).kind in "iu":
        values = np.clip(np.abs(values) * 40, 0, 100)
    return np.where(rng.random(n) < kept, values, 0.0).astype(getattr(ml_dtypes, kind, kind))


def entropy(array: np.ndarray) -> float:
    """Bytes of the values, each taken for itself, and of the list of different ones; at most those of the array."""
    words = array.view(f"u{array.dtype.itemsize}")
    counts = np.unique(words, return_counts=True)[1]
    return min(array.nbytes, entropy_bits(counts) / 8 + len(counts) * array.dtype.itemsize)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 30_000),
    n_values=st.sampled_from([0, 1, 2, 3, 16, 256, 5000]),
    kept=st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0]),
    kind=st.sampled_from(TYPES),
)
def test_arrays_are_coded_without_loss_near_their_entropy(seed, n, n_values, kept, kind):
    array = drawn(seed, n, n_values, kept, kind)
    coding, parts = encode_array(array)
    data = b"".join(parts)
    coding = json.loads(json.dumps(coding))
    same = decode_array(coding, memoryview(data), array.dtype.name, n)
    assert same.dtype == array.dtype
    assert same.tobytes() == array.tobytes()
    assert len(data) <= 1.05 * entropy(array) + 2048


@pytest.mark.parametrize("bits", [0x7FC00001, 0xFFC00000, 0x80000000, 0x7F800000, 0x00000001])
def test_unusual_floats_are_kept_by_their_bits(bits):
    array = np.tile(np.array([bits, 0, 0x3F800000], np.uint32), 100).view(np.float32)
    coding, parts = encode_array(array)
    assert decode_array(coding, memoryview(b"".join(parts)), "float32", 300).tobytes() == array.tobytes()


@pytest.mark.parametrize("shares", [[1], [0.5, 0.5], [0.999, 0.001], [0.9, *[0.1 / 15] * 15], [1 / 200] * 200])
def test_codes_take_little_more_than_their_entropy(shares):
    symbols = np.random.default_rng(0).choice(len(shares), 20_000, p=shares)
    _, symbols, counts = np.unique(symbols, return_inverse=True, return_counts=True)
    stream = encode(symbols, counts)
    assert np.array_equal(decode(stream, counts), symbols)
    assert len(stream) <= 1.01 * entropy_bits(counts) / 8 + 88


@pytest.mark.parametrize("lanes", [64, 65, 500])
def test_the_stream_says_its_number_of_lanes(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number is found from logarithms, which may be rounded differently where the stream is read."""
    symbols = np.random.default_rng(0).integers(0, 5, 200_000)
    counts = np.bincount(symbols)
    monkeypatch.setattr(_range_coder, "n_lanes", lambda _: lanes)
    stream = encode(symbols, counts)
    monkeypatch.undo()
    assert np.array_equal(decode(stream, counts), symbols)


@pytest.mark.parametrize("lanes", [0, 1, 63, 200_001])
def test_an_impossible_number_of_lanes_is_refused(lanes: int) -> None:
    symbols = np.random.default_rng(0).integers(0, 5, 200_000)
    counts = np.bincount(symbols)
    stream = lanes.to_bytes(4, "little") + encode(symbols, counts)[4:]
    with pytest.raises(ValueError, match="a coded stream of wrong length"):
        decode(stream, counts)


@pytest.mark.parametrize("name", BUILDERS)
def test_unpacked_models_compute_the_same(name, tmp_path):
    model = ready(name)
    inputs = inputs_for(model, 6)
    before = [weight.copy() for weight in model.get_weights()]
    packed = dr.pack(model, tmp_path / "m.safetensors")
    same = dr.unpack(packed.path)
    assert packed.size == packed.path.stat().st_size
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, same.get_weights(), strict=True))
    assert type(same) is type(model)
    for a, b in zip(outputs(model, inputs), outputs(same, inputs), strict=True):
        assert np.array_equal(a, b)


def outputs(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    given: Any = inputs if len(inputs) > 1 else inputs[0]
    return [np.asarray(value) for value in keras.tree.flatten(model(given, training=False))]


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16", "float64"])
def test_types_and_untrained_layers_are_kept(policy, tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype=policy), layers.Dense(2, trainable=False)])
    same = dr.unpack(dr.pack(model, tmp_path / "m.safetensors").path)
    assert [w.dtype for w in same.weights] == [w.dtype for w in model.weights]
    assert len(same.trainable_weights) == 2
    assert same.layers[0].dtype_policy.name == policy


def test_a_quantized_model_is_kept(tmp_path):
    model = keras.Sequential([keras.Input((16,)), layers.Dense(8), layers.Dense(3)])
    for dense in model.layers:
        dense.quantize("int8")
    same = dr.unpack(dr.pack(model, tmp_path / "m.safetensors").path)
    x = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    assert np.array_equal(np.asarray(model(x)), np.asarray(same(x)))


@keras.saving.register_keras_serializable("tests_storage")
class Twice(layers.Layer):
    def call(self, x):
        return 2 * x


class Unregistered(Twice):
    pass


def test_registered_layers_are_built_and_others_are_named(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), Twice()])
    assert type(dr.unpack(dr.pack(model, tmp_path / "m.safetensors").path).layers[-1]) is Twice
    other = keras.Sequential([keras.Input((3,)), Unregistered()])
    with pytest.raises(dr.errors.ModelError, match=says("Unregistered", "not registered", "register classes of your")):
        dr.pack(other, tmp_path / "n.safetensors")


def refused(model: keras.Model, path: Any, *parts: str) -> None:
    with pytest.raises(dr.errors.ModelError, match=says(*parts)):
        dr.pack(model, path)
    assert not path.exists()


def test_what_cannot_be_packed_is_refused_by_name(tmp_path):
    place = tmp_path / "m.safetensors"
    refused(keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: x + 1)]), place, "'Lambda'", "a class")
    refused(keras.Sequential([layers.Dense(3)], name="mine"), place, "model 'mine' is not built")
    words = layers.StringLookup(vocabulary=["a", "b"], name="words")
    refused(keras.Sequential([keras.Input((1,), dtype="string"), words]), place, "layer 'words' (StringLookup)")
    with pytest.raises(dr.errors.ParameterError, match=r"`path` must end in \.safetensors, received"):
        dr.pack(ready("mlp"), tmp_path / "m.keras")
    with pytest.raises(dr.errors.ParameterError, match="`model` must be Model, received str"):
        dr.pack("model.keras", place)  # pyright: ignore[reportArgumentType]


def test_an_existing_file_is_kept_unless_asked(tmp_path, model):
    place = tmp_path / "m.safetensors"
    dr.pack(model, place)
    before = place.read_bytes()
    with pytest.raises(dr.errors.ParameterError, match=says("must be a new file", "overwrite=True")):
        dr.pack(ready("mlp"), place)
    assert place.read_bytes() == before
    dr.pack(ready("mlp"), place, overwrite=True)
    assert place.read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_the_result_prints_itself(tmp_path, model):
    text = repr(dr.pack(model, tmp_path / "m.safetensors"))
    assert text.startswith(f"{tmp_path / 'm.safetensors'}: ")
    assert "first/kernel" in text


@pytest.fixture
def packed(tmp_path, model):
    return dr.pack(model, tmp_path / "m.safetensors").path


def unreadable(path: Any, *parts: str, **options: Any) -> None:
    """`unpack` raises one line that says why."""
    with pytest.raises(dr.errors.RecordError, match=says(str(path), "expected a model", *parts)) as found:
        dr.unpack(path, **options)
    assert "\n" not in str(found.value)


def test_every_cut_and_every_flipped_byte_is_found(packed):
    whole = packed.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    for n in (0, 4, 8, 60, start, start + 5, len(whole) - 1):
        packed.write_bytes(whole[:n])
        unreadable(packed)
    packed.write_bytes(whole + b"x")
    unreadable(packed, "bytes in place of")
    for at in (0, 7, 9, 40, start - 40, start, start + 100, len(whole) - 1):
        packed.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        unreadable(packed)


def rewritten(path: Any, change: Any, version: str = "1") -> None:
    """Change the description in a file, and make the checksum fit."""
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    data, end = whole[8 + length :], header["model"]["data_offsets"][1]
    values = json.loads(zlib.decompress(data[:end]))
    parts = {"model": zlib.compress(json.dumps(change(values) or values).encode()), "weights": data[end:]}
    digest, start, made = hashlib.sha256(), 0, {}
    for name, part in parts.items():
        digest.update(len(part).to_bytes(8, "little") + part)
        made[name] = {"dtype": "U8", "shape": [len(part)], "data_offsets": [start, start + len(part)]}
        start += len(part)
    label = {"format": "dropreg", "version": version, "sha256": digest.hexdigest()}
    text = json.dumps({"__metadata__": label, **made}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts.values()))


def layer(values: Any, number: int = 1) -> Any:
    return values["model"]["config"]["layers"][number]


HOSTILE = {
    "absurd units": (lambda v: layer(v)["config"].update(units=10**12), ["1000000000000"]),
    "absurd output": (
        lambda v: layer(v, 3)["config"].update(units=10**12),
        ["other weights (5,000,000,000,049 numbers, not 64)"],
    ),
    "absurd shape": (lambda v: v["weights"][0].__setitem__(2, [10**9, 10**9]), ["more than most_bytes"]),
    "negative shape": (lambda v: v["weights"][0].__setitem__(2, [-4, -5]), ["a weight without a size"]),
    "type": (lambda v: v["weights"][0].__setitem__(1, "object"), ["a type 'object'"]),
    "type of code": (lambda v: v["weights"][0].__setitem__(1, "finfo"), ["a type 'finfo'"]),
    "size": (lambda v: v["weights"][0].__setitem__(3, 7), ["weights of"]),
    "coding": (lambda v: v["weights"][0].__setitem__(4, ["zip", 1, 2]), ["an unknown coding"]),
    "nested coding": (lambda v: v["weights"][0].__setitem__(4, {"zeros": [0, 0, 3], "rest": {"zeros": 1}}), []),
    "too long": (lambda v: v["weights"][0].__setitem__(4, [3, 10**15, 1]), ["another length"]),
    "lambda": (lambda v: layer(v)["config"].update(activation={"class_name": "__lambda__", "config": {}}), ["code"]),
    "Lambda": (lambda v: layer(v).update(class_name="Lambda"), ["'Lambda', which runs code"]),
    "module": (lambda v: layer(v).update(module="os", class_name="system"), ["'os.system', which is not registered"]),
    "unknown class": (lambda v: layer(v).update(class_name="Nothing"), ["cannot be built"]),
    "path": (lambda v: layer(v)["config"].update(vocabulary="/etc/passwd"), ["reads its vocabulary from a file"]),
    "no layers": (lambda v: v["model"].update(config={}), ["cannot be built"]),
    "no model": (lambda v: {"weights": []}, ["not complete"]),
    "no weights": (lambda v: v.update(weights=[]), ["weights of 0 bytes"]),
    "deep": (lambda v: layer(v).update(config=nested(300)), ["nested too deeply"]),
}


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, packed):
    change, parts = HOSTILE[name]
    rewritten(packed, change)
    unreadable(packed, *parts)
    with keras.StatelessScope():
        pass  # gives values to all variables that wait for them: none of the file may


def test_a_rewritten_file_without_changes_is_read(packed, model):
    rewritten(packed, lambda values: None)
    assert np.array_equal(dr.unpack(packed).get_weights()[0], model.get_weights()[0])


def test_files_of_later_versions_and_of_others_are_refused(packed, tmp_path):
    rewritten(packed, lambda values: None, version="2")
    unreadable(packed, "version 2 of the format, newer than 1", "install a later dropreg")
    unreadable(tmp_path / "none.safetensors", "No such file")
    text = b'{"__metadata__":{"format":"pt"}}'
    packed.write_bytes(struct.pack("<Q", len(text)) + text)
    unreadable(packed, "a file of another program")


def test_small_files_of_large_arrays_are_refused(packed):
    unreadable(packed, "take", "more than most_bytes=100", most_bytes=100)
    with pytest.raises(dr.errors.ParameterError, match="`most_bytes` must be an integer of at least 1"):
        dr.unpack(packed, most_bytes=0)


def test_safetensors_can_read_the_container(packed):
    numpy = pytest.importorskip("safetensors.numpy")
    assert set(numpy.load_file(packed)) == {"model", "weights"}
