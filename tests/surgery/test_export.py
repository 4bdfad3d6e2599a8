"""Exported files compute what the model computes, in the precision that was asked for."""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import says
from keras import layers
from models import inputs_for, ready

import dropreg as dr
from dropreg.surgery import Exported, _compare_exports
from dropreg.surgery._export import _write

GRID = ("cnn", "two_inputs", "transformer_block")
QUANTIZED = {"dynamic int8": 0.05, "dynamic int4": 0.5, "int8": 0.1}
"""Precisions that need an extra, and the largest difference that they may make for random weights."""


def needs(extra: str) -> Any:
    """Skip a test where the packages of an extra are not installed."""
    packages = {"litert": ("ai_edge_litert", "ai_edge_quantizer"), "onnx": ("tf2onnx", "onnxruntime")}[extra]
    for package in packages:
        pytest.importorskip(package)


def arrays_for(model: keras.Model, n: int = 6) -> Any:
    arrays = inputs_for(model, n)
    return arrays if len(arrays) > 1 else arrays[0]


def outputs_of(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    return [np.asarray(value) for value in keras.tree.flatten(model(inputs, training=False))]


def equal(model: keras.Model, exported: Exported, inputs: Any, limit: float) -> None:
    """The file's outputs are those of the model, to a share of the largest."""
    found = exported.predict(inputs)
    found = found if isinstance(found, list) else [found]
    for own, other in zip(found, outputs_of(model, inputs), strict=True):
        assert own.shape == other.shape
        assert np.abs(own - other).max() <= limit * np.abs(other).max()


def numbers_in(path: Path) -> list[tuple[str, np.ndarray]]:
    """Type and values of each tensor of numbers in a LiteRT file, integers times their scales."""
    interpreter, found = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_path=str(path)), []
    interpreter.allocate_tensors()
    for detail in interpreter.get_tensor_details():
        try:
            values = interpreter.get_tensor(detail["index"])
        except ValueError:  # is computed when the file runs
            continue
        scales, axis = (detail["quantization_parameters"][key] for key in ("scales", "quantized_dimension"))
        if len(scales) > 1:
            values = values * scales.reshape([-1 if k == axis else 1 for k in range(values.ndim)])
        found.append((np.dtype(detail["dtype"]).name, values))
    return found


def kernel_types(path: Path, model: keras.Model) -> dict[str, set[str]]:
    """The types of the tensors of a file that hold the kernel of each Dense layer of a model, by its name."""
    kernels = {layer.name: np.asarray(layer.kernel).T for layer in model.layers if isinstance(layer, layers.Dense)}
    numbers = numbers_in(path)
    return {
        name: {
            kind
            for kind, values in numbers
            if values.shape == kernel.shape and np.abs(values - kernel).max() < 0.02 * np.abs(kernel).max()
        }
        for name, kernel in kernels.items()
    }


@pytest.mark.parametrize("name", GRID)
def test_float32_files_compute_the_same(name, tmp_path):
    model = ready(name)
    inputs = arrays_for(model)
    before = [weight.copy() for weight in model.get_weights()]
    exported = dr.export(model, tmp_path / "m.tflite", (inputs, None))
    assert exported.difference is not None
    assert exported.difference < 1e-5
    assert exported.agreement == 1.0
    assert exported.size == exported.path.stat().st_size
    equal(model, exported, inputs, 1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["m.tflite"]


def two_outputs(first: str, second: str) -> keras.Model:
    """Two inputs and two outputs by name, which are not in alphabetical order."""
    keras.utils.set_random_seed(0)
    inputs = {first: keras.Input((4,), name=first), second: keras.Input((3,), name=second)}
    x = layers.Concatenate()([layers.Dense(5, activation="relu")(inputs[first]), inputs[second]])
    outputs = {"z": layers.Dense(2, name="z")(x), "y": layers.Dense(3, activation="softmax", name="y")(x)}
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    ("place", "first", "second"), [("m.tflite", "b in", "a-in"), ("m", "b", "a"), ("m.onnx", "b in", "a-in")]
)
def test_inputs_and_outputs_are_matched_by_name(place, first, second, tmp_path):
    if place.endswith("onnx"):
        needs("onnx")
    model, rng = two_outputs(first, second), np.random.default_rng(0)
    inputs = {second: rng.normal(size=(5, 3)).astype("float32"), first: rng.normal(size=(5, 4)).astype("float32")}
    exported = dr.export(model, tmp_path / place, inputs)
    equal(model, exported, inputs, 1e-5)
    equal(model, exported, dict(reversed(inputs.items())), 1e-5)


def test_saved_models_compute_the_same(tmp_path):
    model = ready("mlp")
    inputs = arrays_for(model)
    exported = dr.export(model, tmp_path / "saved", (inputs, None))
    assert exported.format == "SavedModel"
    assert exported.size == sum(path.stat().st_size for path in (tmp_path / "saved").rglob("*") if path.is_file())
    equal(model, exported, inputs, 1e-5)
    again = dr.export(model, tmp_path / "saved", overwrite=True)
    assert again.difference is None
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_onnx_files_compute_the_same(tmp_path):
    """With the activation "gelu", which ONNX does not have."""
    needs("onnx")
    model = ready("transformer_block")
    inputs = arrays_for(model)
    equal(model, dr.export(model, tmp_path / "m.onnx", (inputs, None)), inputs, 1e-5)


@pytest.fixture(scope="module")
def wide() -> keras.Model:
    """Layers with kernels, one of which is shared, with names that numbers tell apart."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16,))
    x = layers.Dense(32, activation="relu", name="dense")(x)
    again = layers.Dense(32, activation="tanh", name="dense_1")
    x = again(again(x))
    x = layers.Dense(32, activation="relu", name="dense_1_1")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(x))


def test_float16_halves_the_weights(wide, tmp_path):
    x = arrays_for(wide, 50)
    exported = dr.export(wide, tmp_path / "m.tflite", (x, None), precision="float16")
    whole = dr.export(wide, tmp_path / "n.tflite")
    assert exported.size < 0.75 * whole.size
    equal(wide, exported, x, 1e-2)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_quantized_files_are_smaller_and_compute_nearly_the_same(precision, wide, tmp_path):
    needs("litert")
    x = arrays_for(wide, 200)
    exported = dr.export(wide, tmp_path / "m.tflite", (x, None), precision=precision)
    assert exported.size < 0.9 * 4 * wide.count_params()
    assert exported.difference is not None
    assert 1e-4 < exported.difference < QUANTIZED[precision]
    equal(wide, exported, x, QUANTIZED[precision])
    assert exported.predict(x[:1]).dtype == np.float32  # pyright: ignore[reportAttributeAccessIssue]


def test_only_named_layers_are_quantized(wide, tmp_path):
    needs("litert")
    x = arrays_for(wide, 100)
    mixed: Any = {"dense_1": "int8", "out": "dynamic int8", "dense_1_1": "float16"}
    exported = dr.export(wide, tmp_path / "m.tflite", (x, None), precision=mixed)
    types = kernel_types(exported.path, wide)
    assert types == {"dense": {"float32"}, "dense_1": {"int8"}, "dense_1_1": {"float16"}, "out": {"int8"}}
    equal(wide, exported, x, 0.1)
    assert "mixed precision" in repr(exported)


def test_a_composite_layer_stands_for_those_inside(tmp_path):
    needs("litert")
    model = ready("transformer_block")
    precision: Any = {next(layer.name for layer in model.layers if "attention" in layer.name): "dynamic int8"}
    exported = dr.export(model, tmp_path / "m.tflite", (arrays_for(model), None), precision=precision)
    assert sum(kind == "int8" for kind, _ in numbers_in(exported.path)) == 4  # query, key, value and output


def refused(error: type[Exception], model: Any, path: Path, *parts: str, **options: Any) -> None:
    """`export` raises an error with these words, and leaves the folder as it is."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(error, match=says(*parts)):
        dr.export(model, path, **options)
    assert sorted(path.parent.iterdir()) == before


def test_wrong_arguments_are_refused(wide, tmp_path):
    place, wrong = tmp_path / "m.tflite", dr.errors.ParameterError
    x = arrays_for(wide)
    refused(wrong, "m.keras", place, "`model` must be Model, received str")
    refused(wrong, wide, tmp_path / "m.h5", "must end in .tflite or .onnx, or have no suffix", "m.h5")
    refused(wrong, wide, place, "must be one of float32, float16", "'int7'", precision="int7")
    refused(wrong, wide, place, "must be one of", "7", precision={"dense": 7})
    refused(wrong, wide, place, "`data` must hold examples", "(x, None)", precision="int8")
    refused(wrong, wide, place, "received 'mist', which is no layer", "dense", precision={"mist": "float16"})
    for other in ("m.onnx", "m"):
        refused(wrong, wide, tmp_path / other, "must be 'float32' for", "files of LiteRT", precision="float16")
    for precision in ("float32", "int8"):
        shape = "must have shape (any, 16), received (6, 3)"
        refused(dr.errors.DataError, wide, place, shape, data=(x[:, :3], None), precision=precision)
    refused(dr.errors.ModelError, keras.Sequential([layers.Dense(2)]), place, "is not built")


def test_layers_without_weights_are_refused(wide, tmp_path):
    needs("litert")
    model, place = ready("cnn_bn"), tmp_path / "m.tflite"
    refused(dr.errors.ModelError, model, place, "received re_lu", precision={relu_of(model): "dynamic int8"})


def relu_of(model: keras.Model) -> str:
    return next(layer.name for layer in model.layers if isinstance(layer, layers.ReLU))


def test_existing_files_are_kept_unless_asked(wide, tmp_path):
    place = tmp_path / "m.tflite"
    place.write_bytes(b"mine")
    refused(dr.errors.ParameterError, wide, place, "which exists", "overwrite=True")
    (tmp_path / "folder").mkdir()
    for overwrite in (False, True):
        refused(
            dr.errors.ParameterError, wide, tmp_path / "folder", "a new folder or a SavedModel", overwrite=overwrite
        )
    assert place.read_bytes() == b"mine"
    dr.export(wide, place, overwrite=True)
    assert place.read_bytes() != b"mine"


def encoder() -> keras.Model:
    return keras.Sequential([keras.Input((5, 3)), layers.SimpleRNN(2)])


def test_operations_that_litert_does_not_have_are_named(tmp_path, capfd):
    refused(dr.errors.ModelError, encoder(), tmp_path / "m.tflite", "received tf.TensorListReserve", "unroll")


def test_a_file_that_computes_something_else_is_not_kept(wide, tmp_path, monkeypatch):
    def halved(*arguments: Any) -> Any:
        return [value / 2 for value in run(*arguments)]

    run = _write.run_file
    monkeypatch.setattr(_write, "run_file", halved)
    data = (arrays_for(wide), None)
    refused(dr.errors.ModelError, wide, tmp_path / "m.tflite", "must compute the same", "differ by 0.5", data=data)


@pytest.mark.parametrize(
    ("module", "place", "precision", "extra"),
    [("ai_edge_quantizer", "m.tflite", "int8", "litert"), ("tf2onnx", "m.onnx", "float32", "onnx")],
)
def test_missing_packages_are_named(module, place, precision, extra, wide, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    install, data = f"pip install 'dropreg[{extra}]'", (arrays_for(wide), None)
    package = module.replace("_", "-")
    refused(
        dr.errors.ParameterError, wide, tmp_path / place, f"package {package}", install, data=data, precision=precision
    )


def test_files_are_run_with_tensorflow_where_litert_is_missing(wide, tmp_path, monkeypatch):
    exported = dr.export(wide, tmp_path / "m.tflite")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    equal(wide, exported, arrays_for(wide), 1e-5)


def test_results_print_themselves_and_refuse_other_inputs(wide, tmp_path):
    exported = dr.export(wide, tmp_path / "m.tflite", arrays_for(wide))
    assert repr(exported).startswith(f"{tmp_path / 'm.tflite'}: LiteRT, float32, ")
    assert "100.0 % of predictions are the same" in repr(exported)
    with pytest.raises(dr.errors.DataError, match=says("must have shape (any, 16), received (2, 3)")):
        exported.predict(np.zeros((2, 3)))
    exported.path.write_bytes(b"damaged")
    with pytest.raises(dr.errors.RecordError, match="expected an exported model"):
        exported.predict(np.zeros((2, 16)))


def test_latency_of_files_is_measured_beside_that_of_models(wide, tmp_path):
    exported = dr.export(wide, tmp_path / "m.tflite")
    models = {"model": wide, "file": exported, "path": str(exported.path)}
    frame = dr.measure_latency(models, (1, 3), repeats=2, warm_up=1)
    assert frame["model"].tolist() == ["model", "file", "path"] * 2
    assert (frame["median"] > 0).all()
    with pytest.raises(dr.errors.ParameterError, match=says("paths of exported files", "which does not exist", "'b'")):
        dr.measure_latency({"b": tmp_path / "none.tflite"})
    with pytest.raises(dr.errors.ParameterError, match=says("received int for 'c'")):
        dr.measure_latency({"c": 3})  # pyright: ignore[reportArgumentType]


def test_exports_of_several_models_are_compared(model, data, tmp_path, monkeypatch):
    def measured(files: Any, batches: Any, **options: Any) -> pd.DataFrame:
        rows = [(name, batch, batch * len(name) / 1000) for batch in batches for name in files]
        return pd.DataFrame(rows, columns=["model", "batch", "median"])

    monkeypatch.setattr(_compare_exports, "measure_latency", measured)
    frame = dr.surgery.compare_exports({"a": model}, tmp_path, data, data, precisions=("float32", "float16"), repeats=2)
    x, y = data
    assert frame["precision"].tolist() == ["float32", "float16"]
    assert frame["accuracy"].tolist() == pytest.approx([np.mean(np.argmax(model(x), 1) == y)] * 2)
    assert frame["ms_1"].tolist() == pytest.approx([len("a float32"), len("a float16")])
    assert frame["ms_64"].tolist() == pytest.approx([64 * len("a float32"), 64 * len("a float16")])
    with pytest.raises(dr.errors.ParameterError, match="must not be empty"):
        dr.surgery.compare_exports({}, tmp_path, data)
    with pytest.raises(dr.errors.DataError, match="`test` must have classes, received no labels"):
        dr.surgery.compare_exports({"a": model}, tmp_path, data, (x, None), overwrite=True)
