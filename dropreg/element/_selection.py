"""Selections: which elements are kept."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from .._utils import concatenate_names, positive
from ..errors import ParameterError
from ._files import as_kept, load_selections, save_selections
from ._keep import Floor, keep_best
from ._table import Elements, check_elements


@dataclass(frozen=True, repr=False, eq=False)
class Selection:
    """The elements of a model that are kept; the others are removed.

    Attributes
    ----------
    elements : Elements
    kept : ndarray of bool, shape (n_elements,)
        True = kept.

    Raises
    ------
    ParameterError
        If `kept` is not a boolean array with one entry for each element.

    Examples
    --------
    >>> import dropreg as dr
    >>> elements = dr.elements(dr.datasets.load_model("mlp"))
    >>> selection = dr.Selection.dropping(elements, range(100))
    >>> selection
    Selection: 300 of 400 elements kept (25.0% removed)
      layer   kind  elements  kept
    dense_1 neuron       300   200
    dense_2 neuron       100   100
    >>> selection.fraction, selection.params
    (0.25, 88500)
    """

    elements: Elements
    kept: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        kept = np.asarray(self.kept)
        if kept.dtype != np.bool_ or kept.shape != (len(self.elements),):
            raise ParameterError(
                f"`kept` must be booleans of shape ({len(self.elements)},), one for each element (True = kept), "
                f"received {kept.dtype} of shape {kept.shape}: pass numbers of elements to Selection.dropping(...)."
            )
        frozen = kept.copy()
        frozen.flags.writeable = False
        object.__setattr__(self, "kept", frozen)

    @classmethod
    def keeping(cls, elements: Elements, indices: Collection[int]) -> "Selection":
        """Keep the elements with these numbers and remove all others.

        Parameters
        ----------
        elements : Elements
        indices : collection of int
            Numbers of elements from 0, in any order.

        Returns
        -------
        Selection

        Raises
        ------
        ParameterError
            If a number is not that of an element.
        """
        return cls(elements, _flags(elements, indices))

    @classmethod
    def dropping(cls, elements: Elements, indices: Collection[int]) -> "Selection":
        """Remove the elements with these numbers and keep all others.

        Parameters
        ----------
        elements, indices
            As in `keeping`, errors too.

        Returns
        -------
        Selection
        """
        return cls(elements, ~_flags(elements, indices))

    @classmethod
    def random(
        cls, elements: Elements, fraction: float, *, seed: int = 0, floor: Floor = 1, round_to: int = 1
    ) -> "Selection":
        """Remove a random fraction of the elements.

        Parameters
        ----------
        elements : Elements
        fraction : float
            Fraction of the elements to remove, in [0, 1).
        seed : int
            The same seed gives the same selection.
        floor, round_to
            As in `select`, errors too.

        Returns
        -------
        Selection

        Examples
        --------
        >>> import dropreg as dr
        >>> elements = dr.elements(dr.datasets.load_model("mlp"))
        >>> dr.Selection.random(elements, 0.25).kept.sum()
        np.int64(300)
        """
        check_elements(elements)
        scores = np.random.default_rng(positive("seed", seed, 0)).random(len(elements))
        return cls(elements, keep_best(elements, scores, fraction, floor, round_to))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the selection to a JSON file, for `load`.

        Parameters
        ----------
        path : str or Path
            Ends in ".json".
        overwrite : bool
            Replace a file that exists.

        Raises
        ------
        ParameterError
            If the path has another ending or no folder, or the file exists and `overwrite` is False.
        RecordError
            If the file cannot be written.
        """
        save_selections(path, self.elements, {"kept": self.kept.tolist()}, "selection", overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path, elements: Elements) -> "Selection":
        """Read a selection that `save` has written.

        Parameters
        ----------
        path : str or Path
        elements : Elements
            Those of the selection, from ``dropreg.elements(model, ...)`` with the same arguments.

        Returns
        -------
        Selection

        Raises
        ------
        RecordError
            If the file cannot be read.
        ParameterError
            If it is a selection of other elements.

        Examples
        --------
        >>> import tempfile
        >>> import dropreg as dr
        >>> elements = dr.elements(dr.datasets.load_model("mlp"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dr.Selection.random(elements, 0.25).save(folder + "/kept.json")
        ...     dr.Selection.load(folder + "/kept.json", elements).fraction
        0.25
        """
        return cls(elements, as_kept(load_selections(path, elements, "selection")["kept"], path))

    @property
    def dropped(self) -> npt.NDArray[np.int64]:
        """Numbers of the removed elements, ascending."""
        return np.flatnonzero(~self.kept)

    @property
    def fraction(self) -> float:
        """Fraction of the elements that is removed."""
        return float(1.0 - self.kept.mean())

    @property
    def params(self) -> int:
        """Upper bound on the number of removed parameters; one between two removed elements is counted twice.

        The exact numbers are in the report of `dropreg.prune`.
        """
        return int(self.elements.params[~self.kept].sum())

    @property
    def macs(self) -> float:
        """Upper bound on the saved multiply-adds for one example, as in `params`; NaN where a size is unknown."""
        return float(self.elements.macs[~self.kept].sum())

    def by_layer(self) -> pd.DataFrame:
        """Count the kept elements of each layer.

        Returns
        -------
        DataFrame
            One row for each layer and kind: layer, kind, elements (how many), kept (how many of them).
        """
        frame = pd.DataFrame({"layer": self.elements.layers, "kind": self.elements.kinds, "kept": self.kept})
        groups = frame.groupby(["layer", "kind"], sort=False, as_index=False)
        return groups.agg(elements=("kept", "size"), kept=("kept", "sum"))

    def to_frame(self) -> pd.DataFrame:
        """Return the elements as a table.

        Returns
        -------
        DataFrame
            `Elements.to_frame` with a column ``kept``, True = kept.
        """
        return self.elements.to_frame().assign(kept=self.kept)

    def __repr__(self) -> str:
        heading = f"Selection: {int(self.kept.sum())} of {len(self.kept)} elements kept ({self.fraction:.1%} removed)"
        return "\n".join([heading, self.by_layer().to_string(index=False)])


def _flags(elements: Elements, indices: Collection[int]) -> npt.NDArray[np.bool_]:
    """Return a mask that is True for the elements with these numbers."""
    numbers = np.asarray(list(indices))
    if numbers.size and (numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= len(elements)):
        raise ParameterError(
            f"`indices` must be numbers of elements, 0 to {len(elements) - 1}, received "
            f"{concatenate_names(numbers.tolist())}."
        )
    flags = np.zeros(len(elements), dtype=bool)
    flags[numbers.astype(np.int64)] = True
    return flags
