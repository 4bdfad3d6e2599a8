"""Compare the sizes of models: parameters, multiply-adds, bytes on disk."""

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from ..graph import Graph
from ..layers import rule_for
from ._copying import copy_model
from ._rebuild import Rebuilt
from ._zeros import as_array

_AT = ("before", "after")


@dataclass(frozen=True, repr=False, eq=False)
class Sizes:
    """Sizes of a model before and after pruning.

    Attributes
    ----------
    layers : DataFrame
        One row for each layer: layer, kind, params_before, params_after, macs_before, macs_after (multiply-adds of
        matrix products for one example, NaN where a size is unknown), bytes_before, bytes_after (of its weights),
        nonzero_before, nonzero_after (parameters that are not zero). Weights that several layers share are counted in
        the first of them.
    models : (Graph, keras.Model)
        Before, traced, and after.
    """

    layers: pd.DataFrame
    models: tuple[Graph, keras.Model]

    @cached_property
    def bytes_before(self) -> int:
        """Size of the original model's ``.keras`` file."""
        return _saved_bytes(self.models[0])

    @cached_property
    def bytes_after(self) -> int:
        """Size of the smaller model's ``.keras`` file."""
        return _saved_bytes(self.models[1])

    def totals(self) -> pd.DataFrame:
        """Return sizes of the whole models.

        Returns
        -------
        DataFrame
            Rows params, nonzero (parameters that are not zero), macs, bytes (of the ``.keras`` file, without the state
            of an optimizer); columns before, after, ratio (after / before).
        """
        names = ("params", "nonzero", "macs")
        rows = {name: [self.layers[f"{name}_{at}"].sum(skipna=False) for at in _AT] for name in names}
        rows["bytes"] = [self.bytes_before, self.bytes_after]
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(_AT))
        return frame.assign(ratio=frame["after"] / frame["before"])

    def _has_new_zeros(self) -> bool:
        """Return whether more parameters are zero than before, as where weights were removed."""
        before, after = (self.layers[f"params_{at}"].sum() - self.layers[f"nonzero_{at}"].sum() for at in _AT)
        return bool(after > before)

    def __repr__(self) -> str:
        totals, hidden = self.totals(), ["bytes_before", "bytes_after"]
        if not self._has_new_zeros():
            totals, hidden = totals.drop(index="nonzero"), [*hidden, "nonzero_before", "nonzero_after"]
        lines = [
            f"{name}: {row['before']:,.0f} -> {row['after']:,.0f} ({row['ratio']:.1%})"
            for name, row in totals.rename(index={"nonzero": "nonzero params"}).iterrows()
        ]
        changed = self.layers[self.layers["params_before"] > 0].drop(columns=hidden)
        return "\n".join([*lines, changed.to_string(index=False, float_format=lambda value: f"{value:,.0f}")])


def compare_sizes(rebuilt: Rebuilt) -> Sizes:
    """Return the sizes of a model and of the smaller one built from it."""
    rows: dict[int, dict[str, Any]] = {}
    after = {id(old): new for old, new in rebuilt.pairs}
    counted: dict[str, set[int]] = {at: set() for at in _AT}
    counts = dict.fromkeys((f"{name}_{at}" for name in ("params", "macs", "bytes", "nonzero") for at in _AT), 0)
    for old in rebuilt.before.calls:
        row = rows.setdefault(id(old.layer), {"layer": old.name, "kind": old.kind, **counts})
        for at, call in zip(_AT, (old, after.get(id(old))), strict=True):
            if call is not None:
                own = [w for w in getattr(call.layer, "weights", ()) if id(w) not in counted[at]]
                counted[at].update(map(id, own))
                row[f"macs_{at}"] += float(rule_for(call.layer).macs(call))
                weights = [as_array(weight) for weight in own]
                row[f"params_{at}"] += sum(weight.size for weight in weights)
                row[f"nonzero_{at}"] += sum(int(np.count_nonzero(weight)) for weight in weights)
                row[f"bytes_{at}"] += sum(weight.nbytes for weight in weights)
    return Sizes(pd.DataFrame(rows.values()), (rebuilt.before, rebuilt.model))


def _saved_bytes(model: keras.Model | Graph) -> int:
    """Return the size of the model's ``.keras`` file, without the state of an optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        keras.saving.save_model(copy_model(model), path)
        return path.stat().st_size
