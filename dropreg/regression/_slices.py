"""Estimate impacts for each slice of the examples: classes, or the values of a column."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..data import slices_of
from ..errors import ParameterError, RecordError, UnidentifiedError
from ._impact import ImpactTable, impact_table
from ._slice_table import SliceTable

if TYPE_CHECKING:
    from ..sampling import Record


class ConstantError(UnidentifiedError):
    """An outcome that no mask changes."""


def by_slice(record: "Record", by: Any, overall: ImpactTable, fit: "Callable[[Record], ImpactTable]") -> SliceTable:
    """Return the impacts that `fit` estimates on the rows of each slice; `overall` are those on all rows."""
    settings = record.settings
    if settings.examples_per_mask > 1:
        raise ParameterError(
            f"`by` must be None where a mask serves several examples, received {settings.examples_per_mask} for each "
            "mask: sample with a design of one."
        )
    label, names, codes, declared = _slices(record, by)
    tables: dict[str, ImpactTable] = {}
    for number, name in enumerate(names):
        part = record.of_examples(codes == number, number if declared else None)
        try:
            tables[name] = fit(part)
        except ConstantError:
            zeros = np.zeros(len(overall))
            bare = replace(overall, rows=part.rows, fidelity=None, stop=None, original=part.original(overall.outcome))
            tables[name] = replace(bare, frame=_frame(overall, zeros))
        except (UnidentifiedError, RecordError) as error:
            raise type(error)(f"slice {name!r} by {label}: {error}") from error
    return SliceTable.of(label, tables)


def _frame(like: ImpactTable, zeros: npt.NDArray[np.float64]) -> pd.DataFrame:
    """Return the frame of impacts that are all zero, because nothing changed."""
    return impact_table(
        *(like.frame, zeros, zeros),
        method=like.method,
        outcome=like.outcome,
        rows=0,
        seed=0,
        uncertainty=like.uncertainty,
    ).frame


def _slices(record: "Record", by: Any) -> tuple[str, tuple[str, ...], npt.NDArray[np.int64], bool]:
    """Return name, slices and their numbers for each example, and whether they are those of the run."""
    settings = record.settings
    if isinstance(by, str):
        if record.slices is None or by != settings.by:
            there = f"slices by {settings.by!r}" if settings.by else "no slices"
            raise ParameterError(
                f"`by` must name the slices of the record or be one value for each example, received {by!r} for a "
                f"record with {there}: pass the values, or sample again with by={by!r}."
            )
        return settings.by, settings.slices, record.slices, True
    found = slices_of(by, settings.n_examples)
    declared = record.slices is not None and np.array_equal(found.codes, record.slices)
    return found.by, found.names, found.codes, declared
