"""Which channels of a network go together: the bookkeeping that layer rules write into.

A *label* names one channel at its source, for example filter 7 of a convolution. The trailing axis
of every tensor carries one label an entry; ``FIXED`` marks channels that cannot be dropped, such as
the model's inputs. Labels that must go together are tied (union-find); labels that cannot go are
pinned with a reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
"""Shape (channels,): the label of each entry of a tensor's trailing axis, ``FIXED`` where none."""
FIXED = -1


@dataclass(frozen=True)
class Source:
    """Where a label begins: unit `index` of a layer."""

    layer: str
    kind: str
    index: int


@dataclass(frozen=True)
class Read:
    """Input `position` of call `call` mixes the channels `labels`: a gate sits there."""

    call: int
    position: int
    labels: Labels


@dataclass(frozen=True)
class State:
    """A recurrent cell reads its own previous output, the units `labels`."""

    cell: Any
    labels: Labels


@dataclass
class Channels:
    """Labels, what ties and pins them, what each costs, and where they are read.

    ``names`` holds what layers are called by their ``id``, ``slots`` the labels of every slot of the graph once all its
    calls have been followed, ``equal`` the pairs of layers that must keep as many units one as the other.
    """

    names: Mapping[int, str]
    sources: list[Source] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    params: list[float] = field(default_factory=list)
    macs: list[float] = field(default_factory=list)
    slots: dict[int, Labels] = field(default_factory=dict)
    equal: dict[tuple[str, str], None] = field(default_factory=dict)
    _parents: list[int] = field(default_factory=list)
    _pinned: dict[int, str] = field(default_factory=dict)
    _units: dict[int, Labels] = field(default_factory=dict)
    _seen: dict[int, Labels] = field(default_factory=dict)

    def units(self, layer: Any, count: int, kind: str) -> Labels:
        """Labels of the `count` units that `layer` computes; the same again when it is shared."""
        if id(layer) not in self._units:
            first = len(self.sources)
            self.sources += [Source(self.names.get(id(layer), layer.name), kind, index) for index in range(count)]
            self.params += [0.0] * count
            self.macs += [0.0] * count
            self._parents += range(first, first + count)
            self._units[id(layer)] = np.arange(first, first + count)
        return self._units[id(layer)]

    def root(self, label: int) -> int:
        """The label that stands for all that are tied to `label`."""
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def tie(self, first: Labels, second: Labels, reason: str) -> Labels:
        """Tie two rows of labels entry by entry; what is tied to a fixed channel is pinned."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            if a == FIXED or b == FIXED:
                self.pin(np.array([a, b]), reason)
            elif (low := min(self.root(a), self.root(b))) != (high := max(self.root(a), self.root(b))):
                self._parents[high] = low
                if high in self._pinned:
                    self._pinned.setdefault(low, self._pinned[high])
        return np.where(first == FIXED, FIXED, np.where(second == FIXED, FIXED, first))

    def pin(self, labels: Labels, reason: str) -> None:
        """Mark channels that cannot be dropped; the first reason is kept."""
        for label in np.unique(labels[labels != FIXED]).tolist():
            self._pinned.setdefault(self.root(label), reason)

    def pinned(self, label: int) -> str | None:
        """Why `label` cannot be dropped, or None if it can."""
        return self._pinned.get(self.root(label))

    def share(self, layer: Any, labels: Labels) -> bool:
        """Tie the channels that one set of weights meets in several calls; True at the first call."""
        first = self._seen.setdefault(id(layer), labels)
        if first is labels:
            return True
        self.tie(first, labels, f"the shared layer '{layer.name}' also reads channels that cannot be dropped")
        return False

    def charge(self, labels: Labels, *, params: float = 0.0, macs: float = 0.0) -> None:
        """Add a cost to every entry of `labels` (parameters, multiply-adds an example)."""
        for label in labels[labels != FIXED].tolist():
            self.params[label] += params
            self.macs[label] += macs


def fixed(count: int) -> Labels:
    """Labels of `count` channels that cannot be dropped."""
    return np.full(count, FIXED, dtype=np.int64)
