"""Which elements are found in transformers of KerasHub, and what can be done with them, at tiny sizes.

Needs KerasHub, and the folder of tests on the path, which has the families.

Example: ``PYTHONPATH=.:tests python experiments/transformers.py``
"""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.results import save_settings
from families import FAMILIES, inputs_of

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
    small = dr.remove(model, selection).model
    found = np.asarray(call_outputs(small, inputs, training=False)[0])
    row["difference"] = float(np.abs(found - expected).max() / np.abs(expected).max())
    row["params after"] = small.count_params()
    row["reload"] = _tried(lambda: _reload(small, inputs, found))
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
