"""How large models are: parameters, multiply-adds, bytes on disk."""

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from ..layers import rule_for
from ._copying import copy_model
from ._rebuild import Rebuilt
from ._zeros import as_array


@dataclass(frozen=True, repr=False, eq=False)
class Sizes:
    """A model before and after.

    Attributes
    ----------
    layers : DataFrame
        One row a layer: layer, kind, params_before, params_after, macs_before, macs_after (multiply-adds of
        matrix products for one example, NaN where a size is unknown), bytes_before, bytes_after (of its weights).
    models : (keras.Model, keras.Model)
    """

    layers: pd.DataFrame
    models: tuple[keras.Model, keras.Model]

    @cached_property
    def bytes_before(self) -> int:
        """Size of the ``.keras`` file of the model before."""
        return saved_bytes(self.models[0])

    @cached_property
    def bytes_after(self) -> int:
        """Size of the ``.keras`` file of the model after."""
        return saved_bytes(self.models[1])

    def totals(self) -> pd.DataFrame:
        """Rows params, macs, bytes (of the file); columns before, after, ratio (after by before)."""
        rows = {name: [self.layers[f"{name}_{at}"].sum(skipna=False) for at in _AT] for name in ("params", "macs")}
        rows["bytes"] = [self.bytes_before, self.bytes_after]
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(_AT))
        return frame.assign(ratio=frame["after"] / frame["before"])

    def __repr__(self) -> str:
        totals = self.totals()
        lines = [
            f"{name}: {row['before']:,.0f} -> {row['after']:,.0f} ({row['ratio']:.1%})"
            for name, row in totals.iterrows()
        ]
        changed = self.layers[self.layers["params_before"] > 0].drop(columns=["bytes_before", "bytes_after"])
        return "\n".join([*lines, changed.to_string(index=False, float_format=lambda value: f"{value:,.0f}")])


_AT = ("before", "after")
_COUNTED = tuple(f"{name}_{at}" for name in ("params", "macs", "bytes") for at in _AT)


def compare_sizes(model: keras.Model, rebuilt: Rebuilt) -> Sizes:
    """Sizes of a model and of the smaller one made from it."""
    rows: dict[int, dict[str, Any]] = {}
    after = {id(old): new for old, new in rebuilt.pairs}
    for old in rebuilt.before.calls:
        new = after.get(id(old))
        row = rows.setdefault(id(old.layer), {"layer": old.name, "kind": old.kind, **dict.fromkeys(_COUNTED, 0)})
        for at, call in zip(_AT, (old, new), strict=True):
            if call is not None:
                row[f"macs_{at}"] += float(rule_for(call.layer).macs(call))
                row[f"params_{at}"], row[f"bytes_{at}"] = _count(call.layer)
    return Sizes(pd.DataFrame(rows.values()), (model, rebuilt.model))


def _count(layer: object) -> tuple[int, int]:
    """Parameters and bytes of the weights of a layer or operation."""
    weights = getattr(layer, "weights", ())
    sizes = [int(np.prod(weight.shape)) for weight in weights]
    widths = [as_array(weight).dtype.itemsize for weight in weights]
    return sum(sizes), sum(size * width for size, width in zip(sizes, widths, strict=True))


def saved_bytes(model: keras.Model) -> int:
    """Bytes of the model's ``.keras`` file, without the state of an optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        keras.saving.save_model(copy_model(model), path)
        return path.stat().st_size
