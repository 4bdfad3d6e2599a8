"""Write a model in each format, without quantization."""

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..._utils import concatenate_names, first_line
from ...errors import ModelError
from ...graph import Graph, call_outputs, patched
from ._runners import needed, plain

TAG = "dropreg-"
"""The name scope around the operations of a layer with its own precision begins so; its number follows."""


def write_litert(graph: Graph, path: Path, *, half: bool = False, tagged: Mapping[int, Any] | None = None) -> None:
    """Write a LiteRT file of float32 numbers, or of float16 weights if `half`.

    Parameters
    ----------
    graph : Graph
    path : Path
    half : bool
    tagged : dict of int to keras.Layer, optional
        Layers whose operations have the scope `TAG` and their number in their names.

    Raises
    ------
    ModelError
        If LiteRT has no operation for a part of the model.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        archive: Any = keras.export.ExportArchive()
        archive.track(graph.model)
        with _tags(tagged or {}):
            archive.add_endpoint("serve", _flat(graph), input_signature=_specs(graph))
            archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if half:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        try:
            data = converter.convert()
        except Exception as error:  # ConverterError is private
            raise _not_converted(graph, error) from error
    path.write_bytes(data)


def write_onnx(graph: Graph, path: Path) -> None:
    """Write an ONNX file of float32 numbers; errors as in `write_litert`."""
    tf2onnx = needed("tf2onnx", "onnx", "a path that ends in '.onnx'")
    checker = needed("onnx.checker", "onnx", "a path that ends in '.onnx'")
    function = tf.function(_flat(graph), input_signature=_specs(graph), autograph=False)
    with quiet():
        try:
            written, _ = tf2onnx.convert.from_function(
                function, _specs(graph), output_path=str(path), custom_op_handlers={"Erfc": (_erfc, [])}
            )
            checker.check_model(written)
        except Exception as error:
            raise ModelError(
                f"model '{graph.model.name}' must consist of operations that ONNX has, received {first_line(error)}: "
                "export it as a SavedModel, a path without a suffix."
            ) from error


def _erfc(context: Any, node: Any, name: str, arguments: Any) -> None:
    """Replace an operation Erfc, that of the activation "gelu", by 1 - Erf."""
    node.domain, node.type = "", "Erf"
    one = context.make_const(f"{name}/one", np.array(1, np.float32))
    negative = context.insert_new_node_on_output("Neg", node.output[0], f"{name}/negative")
    whole = context.insert_new_node_on_output("Add", negative.output[0], f"{name}/whole")
    context.replace_inputs(whole, [negative.output[0], one.output[0]])


def write_saved_model(graph: Graph, path: Path) -> None:
    """Write a SavedModel folder, as ``model.export`` does; ModelError if Keras refuses."""
    with quiet():
        try:
            graph.model.export(str(path), format="tf_saved_model", verbose=False)
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"model '{graph.model.name}' must be one that Keras can export, received {first_line(error)}: give its "
                "inputs names of letters, digits and underscores, or export it as '.tflite' or '.onnx'."
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard what other libraries print, log and warn of."""
    text, before = io.StringIO(), logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def _flat(graph: Graph) -> Any:
    """Return the forward pass as a function of one tensor for each input, with numbered outputs."""

    def forward(*inputs: Any) -> dict[str, Any]:
        with keras.StatelessScope(collect_losses=True):
            outputs = call_outputs(graph, inputs, training=False)
        return {f"output_{number}": value for number, value in enumerate(outputs)}

    return forward


def _specs(graph: Graph) -> list[tf.TensorSpec]:
    values = zip(graph.inputs, graph.input_names, graph.input_dtypes, strict=True)
    return [
        tf.TensorSpec((None, *graph.shapes[slot][1:]), dtype or "float32", plain(name)) for slot, name, dtype in values
    ]


@contextlib.contextmanager
def _tags(layers: Mapping[int, Any]) -> Iterator[None]:
    """Put the operations of each layer into a name scope with its number."""

    def tagged(number: int, call: Any) -> Any:
        def inside(*args: Any, **kwargs: Any) -> Any:
            with tf.name_scope(f"{TAG}{number}"):
                return call(*args, **kwargs)

        return inside

    with patched([(layer, "call", tagged(number, layer.call)) for number, layer in layers.items()]):
        yield


def _not_converted(graph: Graph, error: Exception) -> ModelError:
    """Return an error that names the operations that LiteRT does not have."""
    text = str(error)
    names = re.findall(r"'(tf\.\w+)' op ", text)
    names += [f"tf.{name}" for name in re.findall(r"(\w+)", "".join(re.findall(r"Select ops: (.*)", text)))]
    found = concatenate_names(sorted(set(names))) or first_line(error)
    hint = " Recurrent layers need unroll=True, or inputs of fixed length." if "TensorList" in found else ""
    return ModelError(
        f"model '{graph.model.name}' must consist of operations that LiteRT has, received {found}: export it as "
        f"'.onnx' or as a SavedModel, or replace the layers.{hint}"
    )
