"""Compress a model: remove units, round the kernels that are kept, distill, and pack.

A size can be reached by many weights of few bits or by few weights of more bits. Each number of bits is one candidate:
units are removed until the rounded model fits, and kernels are rounded on data, more coarsely where the outputs depend
less on the layer. Then codes and all other weights learn from the original model, and last the scales. The candidate
that is closest to the original model on held-out examples is taken; these also choose the best epochs.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from .._utils import check_between, check_several, check_type, hidden
from ..data import Data, Examples, Task, check_data, read_once
from ..element import Elements, Quantized, cost_of, largest_fraction
from ..element import elements as find_elements
from ..errors import ModelError, ParameterError, TargetError
from ..graph import trace_graph
from ..network import guess_task, run_model
from ..recovery import Part, Recovered, Recovery, resolve_recovery, train
from ..surgery import Packed, Rounder, Rounding, copy_model, kernels_of, pack, settle, trace_original, with_learning
from ._limits import Limit, held_out_examples, verdict_on
from ._prune import prune
from ._targets import Budget

if TYPE_CHECKING:
    import keras

_HELD_OUT = 10
"""One in so many examples is held out to choose between candidates."""
_SHARES = (0.15, 0.1, 0.07, 0.05, 0.035, 0.025, 0.018, 0.013)
"""Shares of the bytes that are tried in turn for a limit."""
_BITS_PER_WEIGHT = {2: 1.3, 3: 2.3, 4: 3.1, 5: 4.0, 6: 5.0, 7: 6.0, 8: 7.0}
"""Entropy of a code, about, where rare codes cost a little."""
_LEAST_RATE, _MOST_RATE = 1e-4, 3e-2
_STEPS, _TRIES = 9, 4
_WITHOUT_PRUNING = 0.97
_EXACT_BITS = 8
_LEARNING_RATE = 1e-3
_MOST_SQUEEZED = 1.2
"""Largest size without a rate, relative to the target, for which a rate is better than fewer units."""
_ASIDE_LEFT = 0.5
"""Share of biases and scales that is left, about."""


@dataclass(frozen=True, repr=False, eq=False)
class Compressed:
    """A model in few bytes, and what else was tried.

    Attributes
    ----------
    model : keras.Model
        The smaller model: a plain Keras model with rounded kernels, compiled like the original.
    original : keras.Model
        The original model, unchanged.
    size, size_before : int
        Bytes of `model` as `dropreg.pack` stores it, and of the original's weights in memory.
    candidates : DataFrame
        One row for each model that was finished: bytes, ratio (`size_before` / bytes), fraction (of the units removed),
        bits (of the kernels), entropy (of a code before training, in bits, mean over weights), params, distance (from
        the original model on held-out examples, as in `Recovered.loss_after`), chosen, and with a limit its upper
        confidence limit.
    rounding : dropreg.surgery.Rounding
        How the kernels of `model` were rounded before it was trained, which may change codes.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> few = dr.Recovery(epochs=1, distill=1.0)
    >>> small = dr.compress(model, (x[:500], None), bytes=0.15, bits=(4,), recovery=few)
    >>> small.size <= 0.15 * small.size_before
    True
    """

    model: "keras.Model"
    original: "keras.Model"
    size: int
    size_before: int
    candidates: pd.DataFrame
    rounding: Rounding

    def save(self, path: str | Path, *, overwrite: bool = False) -> Packed:
        """Write the model to a file, as `dropreg.pack` does.

        Parameters
        ----------
        path : str or Path
            A file that ends in ".safetensors".
        overwrite : bool
            Whether an existing file is replaced.

        Returns
        -------
        dropreg.surgery.Packed
        """
        return pack(self.model, path, overwrite=overwrite)

    def __repr__(self) -> str:
        ratio = self.size_before / self.size
        head = f"Compressed model '{self.model.name}': {self.size:,} bytes, {ratio:.1f} times smaller"
        return f"{head}\n{self.candidates.to_string(index=False, float_format='{:.4g}'.format)}"


def compress(
    model: "keras.Model",
    data: Data,
    *,
    bytes: float | int | None = None,
    latency: float | None = None,
    limit: Limit | None = None,
    bits: Sequence[int] = (3, 4),
    recovery: Recovery | None = None,
    task: Task | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Compressed:
    """Make a model small: remove units, round the kernels, distill the original model, and pack the result.

    Parameters
    ----------
    model : keras.Model
        A built Sequential or Functional model. It is not changed.
    data : (x, y)
        Examples; labels are only used for a limit without data of its own. A tenth of them is held out to choose
        between candidates, and the epoch of each.
    bytes : float or int, optional
        The most bytes of the packed file: a share of the original's weights in memory, strictly between 0 and 1, or a
        whole number of bytes.
    latency : float, optional
        The longest forward pass, as a share of the original's, strictly between 0 and 1; see `Budget`. Kernels are
        rounded to 8 bits.
    limit : AccuracyLimit or OutcomeLimit, optional
        How much worse an outcome may get. Smaller and smaller models are finished and tested, in this order, until one
        fails; the last that passed is returned, so that the limit holds at its level.
    bits : sequence of int
        Bits of the kernels, one candidate each, 2 to 8.
    recovery : Recovery, optional
        How the pruned and the rounded model learn from the original; by default as in `prune`.
    task : str, optional
        As in `sample`.
    seed : int
        Seed of annealing and distillation.
    progress : bool, optional
        Show bars; by default on a terminal only.

    Returns
    -------
    dropreg.pruning.Compressed

    Raises
    ------
    ParameterError
        If not exactly one of `bytes`, `latency` and `limit` is given, or a parameter is out of range.
    TargetError
        If no candidate is small enough, or no model meets the limit.
    ModelError, DataError
        For the reasons of `prune` and `quantize`.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> few = dr.Recovery(epochs=1, distill=1.0)
    >>> small = dr.compress(model, (x[:500], None), bytes=0.15, bits=(4,), recovery=few)
    >>> small.candidates["bits"].tolist()
    [4]
    """
    _check(bytes, latency, limit, bits)
    data = read_once(data)
    original = trace_original(model)
    examples, limited = check_data(original.graph, data, task, measured=False), None
    if limit is not None:
        examples, limited = held_out_examples(limit, original.graph, data, check_data(original.graph, data, task), seed)
    work = _Work(
        original.model,
        examples,
        resolve_recovery(recovery or "distill", None, has_data=True, seed=seed),
        seed,
        progress,
    )
    if limited is not None and limit is not None:
        return _smallest(work, limit, limited, bits)
    if latency is not None:
        return work.best([work.for_latency(latency)])
    assert bytes is not None
    most = int(bytes * work.size_before) if isinstance(bytes, float) else int(bytes)
    return work.best([found for each in bits if (found := work.for_bytes(most, each)) is not None], most)


def _check(size: Any, latency: Any, limit: Any, bits: Any) -> None:
    given = [name for name, value in (("bytes", size), ("latency", latency), ("limit", limit)) if value is not None]
    if len(given) != 1:
        raise ParameterError(
            f"exactly one of `bytes`, `latency` and `limit` must be given, received {' and '.join(given) or 'none'}: "
            "pass bytes=0.05, latency=0.5 or limit=AccuracyLimit(0.005, (x, y))."
        )
    if isinstance(size, bool) or (isinstance(size, int | np.integer) and size < 1):
        raise ParameterError(f"`bytes` must be a share of the bytes or a positive number of them, received {size!r}.")
    if size is not None and not isinstance(size, int | np.integer):
        check_between("bytes", size, hint="the share of the original's bytes, or a whole number of bytes")
    if latency is not None:
        check_between("latency", latency, hint="the share of the original's latency")
    if limit is not None:
        check_type("limit", limit, Limit, "pass dropreg.AccuracyLimit(0.005, (x, y))")
    check_several("bits", bits)
    for each in bits:
        if each not in _BITS_PER_WEIGHT:
            raise ParameterError(f"`bits` must be whole numbers from 2 to 8, received {each!r}.")
    if not len(bits):
        raise ParameterError("`bits` must hold at least one number, received none: pass (3, 4).")


@dataclass(frozen=True)
class _Candidate:
    """A finished model: its rounding before training, the fraction of units removed, and the size of its file."""

    model: "keras.Model"
    rounding: Rounding
    fraction: float
    bits: int
    size: int
    distance: float


class _Work:
    """Finishes candidates for one model; pruned models are kept."""

    def __init__(
        self, model: "keras.Model", examples: Examples, recovery: Recovery | None, seed: int, progress: bool | None
    ) -> None:
        assert recovery is not None
        self.model, self.recovery, self.seed, self.progress = model, recovery, seed, progress
        self.graph = trace_graph(model)
        held = np.arange(len(examples)) % _HELD_OUT == 0
        self.held, self.rest = examples.part(np.flatnonzero(held)), examples.part(np.flatnonzero(~held))
        if examples.labels is None:
            task = guess_task(run_model(self.graph, self.rest.part(slice(256))))
            self.held, self.rest = replace(self.held, task=task), replace(self.rest, task=task)
        self.size_before = sum(int(np.prod(w.shape)) * np.dtype(w.dtype).itemsize for w in model.weights)
        self.pruned: dict[float, Any] = {0.0: model}
        self.described = _size(_without_weights(model))
        try:
            self.elements: Elements | None = find_elements(self.graph)
        except ModelError:
            self.elements = None

    def data(self) -> Any:
        """The examples that are not held out, without labels."""
        inputs = list(self.rest.inputs)
        x = inputs[0] if len(inputs) == 1 else inputs
        return (x, None) if self.rest.weights is None else (x, None, self.rest.weights)

    def without(self, fraction: float) -> "keras.Model":
        """Return the model without a fraction of its units, distilled."""
        if fraction not in self.pruned:
            given = {"recovery": self.recovery, "seed": self.seed, "progress": self.progress}
            self.pruned[fraction] = prune(self.model, self.data(), fraction=fraction, **given).model
        return self.pruned[fraction]

    def for_latency(self, latency: float) -> _Candidate:
        given = {"recovery": self.recovery, "seed": self.seed, "progress": self.progress}
        pruned = prune(self.model, self.data(), target=Budget("latency", latency), **given)
        removed = 1.0 - float(np.mean(pruned.selection.kept))
        rounding = Rounder(pruned.model, self.rest).result(Quantized(_EXACT_BITS))
        return self.finish(rounding, removed, _EXACT_BITS)

    def for_bytes(self, most: int, bits: int) -> _Candidate | None:
        """Return the candidate with these bits that fits into `most` bytes; None if there is none."""
        fraction = self.fraction_for(most, bits)
        for _ in range(_TRIES):
            rounder = Rounder(self.without(fraction), self.rest)
            final = self.elements is None or fraction >= self.most_removed()
            rounding = self.rounded(rounder, most, bits, final=final)
            found = None if rounding is None else self.finish(rounding, fraction, bits, most)
            if found is not None and found.size <= most:
                return found
            if final:
                return None
            fraction = round(min(fraction + 0.25 * (1 - fraction), self.most_removed()), 2)
        return None

    def most_removed(self) -> float:
        return 0.0 if self.elements is None else min(0.95, largest_fraction(self.elements, 1))

    def fraction_for(self, most: int, bits: int) -> float:
        """Return the fraction of units to remove, so that the rest fits, about; 0 if all of it does."""
        n = self.model.count_params()
        kernels = [v for found in kernels_of(self.model).values() for v in found]
        others = n - sum(int(np.prod(v.shape)) for v in kernels)
        aside = 2 * others + 4 * sum(int(v.shape[-1]) for v in kernels)  # halves of other weights, and scales
        left = most - self.described - aside * _ASIDE_LEFT
        share = (8.0 * left / _BITS_PER_WEIGHT[bits]) / n
        if self.elements is None or share >= _WITHOUT_PRUNING:
            return 0.0
        cost, rng = cost_of(self.model, self.elements), np.random.default_rng(self.seed)
        order = rng.permutation(len(self.elements))
        for fraction in np.arange(0.05, self.most_removed(), 0.05):
            kept = np.ones(len(order), bool)
            kept[order[: round(fraction * len(order))]] = False
            if 1.0 - cost.saved(kept)[0] / cost.total <= share:
                return round(float(fraction), 2)
        return round(self.most_removed(), 2)

    def rounded(self, rounder: Rounder, most: int, bits: int, *, final: bool = True) -> Rounding | None:
        """Return the rounding with the lowest rate that fits; None if there is none.

        Unless it is `final`, a model that needs a high rate counts as one that does not fit.
        """
        weights = self.rates(rounder, bits)
        exact = rounder.result(Quantized(bits))
        size = _size(exact.model)
        if size <= most:
            return exact
        if size > _MOST_SQUEEZED * most and not final:
            return None
        low, high, best = np.log(_LEAST_RATE), np.log(_MOST_RATE), None
        for _ in range(_STEPS):
            middle = (low + high) / 2 if best is not None or low > np.log(_LEAST_RATE) else high
            found = rounder.result(Quantized(bits), {name: float(np.exp(middle)) * w for name, w in weights.items()})
            if _size(found.model) <= most:
                best, high = found, middle
            elif middle == high:
                return None
            else:
                low = middle
            if best is not None and high - low < 0.05:
                break
        return best

    def rates(self, rounder: Rounder, bits: int) -> dict[str, float]:
        """Return relative prices of a bit by layer: high where the outputs depend little on the layer's error."""
        model, names = rounder.model, list(rounder.kernels)
        rounding = rounder.result(Quantized(bits))
        groups = rounding.layers.groupby("layer", sort=False)
        errors: dict[Any, float] = groups["error"].mean().to_dict()
        sizes: dict[Any, int] = groups["weights"].sum().to_dict()
        part = self.held.part(slice(500))
        before = self.outputs(model, part)
        found = {}
        for name in names:
            alone = rounder.result({name: Quantized(bits)}).model
            change = max(self.change(before, self.outputs(alone, part)), 1e-12)
            sensitivity = change / max(errors[name], 1e-12)
            found[name] = sizes[name] / sensitivity
        middle = float(np.exp(np.mean(np.log(list(found.values())))))
        return {name: float(np.clip(value / middle, 0.1, 10.0)) for name, value in found.items()}

    def outputs(self, model: "keras.Model", examples: Examples) -> Any:
        return run_model(trace_graph(model), examples)

    def change(self, before: Any, after: Any) -> float:
        """Return the mean squared change of the outputs."""
        pairs = zip(_as_list(before), _as_list(after), strict=True)
        return float(sum(np.square(np.asarray(b, np.float64) - np.asarray(a, np.float64)).mean() for b, a in pairs))

    def finish(self, rounding: Rounding, fraction: float, bits: int, most: int | None = None) -> _Candidate:
        """Return a rounded model that has learned from the original; it is rounded again if that made it too large."""
        usual = replace(self.recovery, learning_rate=_LEARNING_RATE, bold_rate=None)
        shorter = replace(usual, epochs=max(usual.epochs // 4, 1))
        model = rounding.model
        if rounding.learning:
            model = self.learned(with_learning(rounding), usual).model
            settle(model)
            if most is not None and _size(model) > most:
                again = self.rounded(Rounder(model, self.rest), most, bits)
                rounding = rounding if again is None else again
                model = model if again is None else again.model
        found = self.learned(model, shorter if rounding.learning else usual)
        return _Candidate(found.model, rounding, fraction, bits, _size(found.model), found.loss_after)

    def learned(self, model: "keras.Model", recovery: Recovery) -> Recovered:
        """Train a model on the original's predictions, and halve the precision of all but its kernels."""
        parts = [Part(each, np.arange(len(each))) for each in (self.rest, self.held)]
        found = train(trace_graph(model), self.graph, (parts[0], parts[1]), recovery, progress=self.progress)
        _halve(found.model)
        return found

    def best(self, candidates: list[_Candidate], most: int | None = None) -> Compressed:
        if not candidates:
            raise TargetError(
                f"the target is at most {most or 0:,} bytes, but no candidate is that small: pass a larger `bytes`, or "
                "fewer `bits`."
            )
        chosen = min(candidates, key=lambda each: each.distance)
        return self.result(candidates, chosen)

    def result(self, candidates: list[_Candidate], chosen: _Candidate, limits: Sequence[float] = ()) -> Compressed:
        rows = []
        for number, each in enumerate(candidates):
            layers = each.rounding.layers
            entropy = float(np.average(layers["bits"], weights=layers["weights"]))
            row = {
                "bytes": each.size,
                "ratio": self.size_before / each.size,
                "fraction": each.fraction,
                "bits": each.bits,
            }
            row |= {"entropy": entropy, "params": each.model.count_params(), "distance": each.distance}
            row["chosen"] = each is chosen
            if len(limits):
                row["limit"] = limits[number]
            rows.append(row)
        frame = pd.DataFrame(rows)
        return Compressed(chosen.model, self.model, chosen.size, self.size_before, frame, chosen.rounding)


def _smallest(work: _Work, limit: Limit, examples: Examples, bits: Sequence[int]) -> Compressed:
    """Return the smallest of a sequence of finished models that meets a limit."""
    finished: list[_Candidate] = []
    limits: list[float] = []
    with tqdm(_SHARES, unit="models", disable=hidden(work.progress)) as bar:
        for share in bar:
            most = int(share * work.size_before)
            if finished and finished[-1].size <= most:
                continue
            found = [one for each in bits if (one := work.for_bytes(most, each)) is not None]
            if not found:
                break
            best = min(found, key=lambda each: each.distance)
            verdict = verdict_on(limit, work.graph, best.model, examples, limit.level)
            finished.append(best)
            limits.append(float(verdict.limit))
            if verdict.limit > limit.most:
                break
    passed = [one for one, value in zip(finished, limits, strict=True) if value <= limit.most]
    if not passed:
        reached = f"{limit.shown(limits[0])} with {finished[0].size:,} bytes" if limits else "no model is small enough"
        raise TargetError(
            f"the target is {limit.text(limit.most)} at level {limit.level:g}, but the upper limit is {reached}: pass "
            "more examples, or a larger limit."
        )
    return work.result(finished, passed[-1], limits)


def _without_weights(model: "keras.Model") -> "keras.Model":
    """Return a copy whose weights are all zero."""
    copied = copy_model(model)
    copied.set_weights([np.zeros_like(weight) for weight in copied.get_weights()])
    return copied


def _halve(model: "keras.Model") -> None:
    """Round all weights but kernels to half precision, which `pack` stores in half the bytes."""
    kernels = {id(variable) for found in kernels_of(model).values() for variable in found}
    for variable in model.weights:
        if id(variable) not in kernels and str(variable.dtype) == "float32":
            value = np.asarray(variable.value)
            half = value.astype(np.float16).astype(np.float32)
            variable.assign(np.where(np.isfinite(half), half, value))


def _as_list(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _size(model: "keras.Model") -> int:
    with tempfile.TemporaryDirectory() as folder:
        return pack(model, Path(folder) / "model.safetensors").size
