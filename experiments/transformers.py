"""Which elements are found in transformers of KerasHub, and what can be done with them, at tiny sizes.

Needs KerasHub, and the folder of tests on the path, which has the families.

Example: ``PYTHONPATH=.:tests python experiments/transformers.py``
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.results import save_settings
from families import FAMILIES, inputs_of, keras_hub

import dropreg as dr
from dropreg.graph import call_outputs
from dropreg.network import MaskedNetwork


def of_family(name: str, seed: int) -> dict[str, Any]:
    """Measure one family; an error is a cell of the table."""
    build, *_ = FAMILIES[name]
    keras.utils.set_random_seed(seed)
    model = build()
    row: dict[str, Any] = {"family": name, "class": type(model).__name__, "params": model.count_params()}
    for kind in ("neurons", "heads", "branches", "layers"):
        try:
            row[kind] = len(dr.elements(model, kind))  # type: ignore[arg-type]
        except dr.errors.ModelError:
            row[kind] = 0
    elements = dr.elements(model, ["neurons", "heads"])
    inputs = inputs_of(model, 8)
    given = {tensor.name: np.asarray(x) for tensor, x in zip(model.inputs, inputs, strict=True)}
    data = (given if len(given) > 1 else next(iter(given.values())), None)
    row["estimate"] = _tried(lambda: _estimate(model, data, elements))
    selection = dr.Selection.random(elements, 0.4, seed=1)
    expected = np.asarray(MaskedNetwork(model, elements)(inputs, selection.kept[np.newaxis]))
    small: Any = dr.remove(model, selection).model
    found = np.asarray(call_outputs(small, inputs, training=False)[0])
    row["difference"] = float(np.abs(found - expected).max() / np.abs(expected).max())
    row["params after"] = small.count_params()
    row["reload"] = _tried(lambda: _reload(small, inputs, found))
    row["own class"] = "yes" if isinstance(small, type(model)) else "no"
    row["generate"] = _tried(lambda: _generate(small)) if hasattr(small, "generate_step") else "-"
    for kind in ("neurons", "heads", "layers"):
        row[f"preset of {kind}"] = _tried(partial(_preset, model, kind)) if row[kind] else "-"
    return row


def _tried(action: Any) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return "yes"


def _estimate(model: Any, data: Any, elements: dr.Elements) -> None:
    impact = dr.estimate(
        model, data, elements, outcome="divergence", rows=400, output=len(model.outputs) - 1, progress=False
    )
    if not np.isfinite(impact.impact).all():
        raise ValueError("an impact is not finite")


def _reload(model: Any, inputs: Any, found: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        loaded: Any = keras.saving.load_model(Path(folder) / "model.keras")
    if not np.array_equal(np.asarray(call_outputs(loaded, inputs, training=False)[0]), found):
        raise ValueError("the loaded model computes something else")


def _generate(model: Any) -> None:
    """Decode greedily with the cache, and by full forward passes."""
    model.sampler = keras_hub.samplers.GreedySampler()
    tokens, known = np.zeros((2, 7), np.int32), np.arange(7) < 3
    tokens[:, :3] = [[3, 7, 11], [20, 5, 9]]
    given = {"token_ids": tokens.copy(), "padding_mask": np.tile(known, (2, 1)).astype(np.int32)}
    tensors = {name: keras.ops.convert_to_tensor(x) for name, x in given.items()}
    found = np.asarray(model.generate_step(tensors, stop_token_ids=None)["token_ids"])
    for step in range(3, 7):
        full = model({"token_ids": tokens, "padding_mask": np.ones_like(tokens)}, training=False)
        tokens[:, step] = np.asarray(full)[:, step - 1].argmax(-1)
    if not np.array_equal(found, tokens):
        raise ValueError("the cache gives other tokens")


def _preset(model: Any, kind: Any) -> None:
    """Save half of each layer's elements, or all blocks but the last, as a preset, and load it."""
    elements = dr.elements(model, kind)
    if kind == "layers":
        selection = dr.Selection.dropping(elements, [len(elements) - 1])
    else:
        selection = dr.Selection.random(elements, 0.5, floor=0.5, seed=1)
    pruned = dr.remove(model, selection)
    with tempfile.TemporaryDirectory() as folder:
        pruned.save_to_preset(folder)
        backbone: Any = keras_hub.models.Backbone.from_preset(folder)
    small: Any = pruned.model
    if backbone.count_params() != getattr(small, "backbone", small).count_params():
        raise ValueError("the loaded backbone has other sizes")


def main() -> None:
    parser = new_parser(__doc__, "transformers", seeds=(0,))
    arguments = parser.parse_args()
    names = ["BERT"] if arguments.quick else list(FAMILIES)
    arguments.out.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame([of_family(name, arguments.seeds[0]) for name in names])
    frame.to_csv(arguments.out / "summary.csv", index=False, float_format="%.2g")
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
