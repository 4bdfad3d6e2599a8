"""Which channels of a model must be removed together: a data structure that the layer rules fill.

A *label* is the number of a unit, for example of filter 7 of a convolution. Each entry of a tensor's trailing axis has
a label; ``FIXED`` marks channels that cannot be removed, such as the model's inputs. Labels that must be removed
together are tied (union-find); labels that cannot be removed are pinned, with a reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
"""Shape (channels,): the label of each entry of a tensor's trailing axis, or ``FIXED``."""
FIXED = -1


@dataclass(frozen=True)
class Source:
    """The unit of a label: number `index` of a layer."""

    layer: str
    kind: str
    index: int


@dataclass(frozen=True)
class Read:
    """A gate at input `position` of call `call`, whose weights mix the channels `labels`."""

    call: int
    position: int
    labels: Labels


@dataclass(frozen=True)
class State:
    """A recurrent cell, which consumes its own previous output, the units `labels`."""

    cell: Any
    labels: Labels


@dataclass
class Channels:
    """The labels of a model, with their ties, pins, costs and gates.

    `units` makes the labels of a layer; `tie`, `pin` and `charge` change them.

    Parameters
    ----------
    names : mapping of int to str
        Names of the layers by their ``id``.
    sources, params, macs : list
        The unit of each label, its parameters and its multiply-adds per example.
    reads, states : list
        The places where channels are mixed: `Read` and `State`.
    slots : dict of int to Labels
        Labels of every tensor of the graph, once all calls have been followed.
    equal : dict
        Its keys are pairs of layers that must keep equal numbers of units.
    refused : dict of int to str
        Why channels cannot be removed from layers, by the ``id`` of the layer.

    Examples
    --------
    >>> import dropreg as dr, keras
    >>> channels = dr.layers.Channels(names={})
    >>> labels = channels.units(keras.layers.Dense(2), 2, "neuron")
    >>> channels.pin(labels, "the model's output needs it")
    >>> channels.pinned(0)
    "the model's output needs it"
    """

    names: Mapping[int, str]
    sources: list[Source] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    params: list[float] = field(default_factory=list)
    macs: list[float] = field(default_factory=list)
    slots: dict[int, Labels] = field(default_factory=dict)
    equal: dict[tuple[str, str], None] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    _parents: list[int] = field(default_factory=list)
    _pinned: dict[int, str] = field(default_factory=dict)
    _units: dict[int, Labels] = field(default_factory=dict)
    _seen: dict[int, Labels] = field(default_factory=dict)

    def units(self, layer: Any, count: int, kind: str) -> Labels:
        """Return the labels of the `count` units that `layer` computes; all calls of a shared layer have the same."""
        if id(layer) not in self._units:
            first = len(self.sources)
            self.sources += [Source(self.names.get(id(layer), layer.name), kind, index) for index in range(count)]
            self.params += [0.0] * count
            self.macs += [0.0] * count
            self._parents += range(first, first + count)
            self._units[id(layer)] = np.arange(first, first + count)
        return self._units[id(layer)]

    def root(self, label: int) -> int:
        """Return the smallest of the labels that are tied to `label`."""
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def tie(self, first: Labels, second: Labels, reason: str) -> Labels:
        """Tie two rows of labels entry by entry, and return the result; labels tied to a fixed channel are pinned."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            if a == FIXED or b == FIXED:
                self.pin(np.array([a, b]), reason)
            elif (low := min(self.root(a), self.root(b))) != (high := max(self.root(a), self.root(b))):
                self._parents[high] = low
                if high in self._pinned:
                    self._pinned.setdefault(low, self._pinned[high])
        return np.where(first == FIXED, FIXED, np.where(second == FIXED, FIXED, first))

    def pin(self, labels: Labels, reason: str) -> None:
        """Mark channels that cannot be removed; the first reason is kept."""
        for label in np.unique(labels[labels != FIXED]).tolist():
            self._pinned.setdefault(self.root(label), reason)

    def pinned(self, label: int) -> str | None:
        """Return why `label` cannot be removed, or None if it can."""
        return self._pinned.get(self.root(label))

    def share(self, layer: Any, labels: Labels) -> bool:
        """Tie the channels that the same weights consume in several calls; returns True at the first call."""
        first = self._seen.setdefault(id(layer), labels)
        if first is labels:
            return True
        self.tie(first, labels, f"the shared layer '{layer.name}' also consumes channels that cannot be dropped")
        return False

    def charge(self, labels: Labels, *, params: float = 0.0, macs: float = 0.0) -> None:
        """Add parameters and multiply-adds per example to the cost of every label."""
        for label in labels[labels != FIXED].tolist():
            self.params[label] += params
            self.macs[label] += macs


def fixed(count: int) -> Labels:
    """Return the labels of `count` channels that cannot be removed.

    Parameters
    ----------
    count : int

    Returns
    -------
    ndarray of int64, shape (count,)

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.layers.fixed(3).tolist()
    [-1, -1, -1]
    """
    return np.full(count, FIXED, dtype=np.int64)
