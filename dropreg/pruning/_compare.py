"""Scorers against each other: who removes most for the least loss, at what cost."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .._utils import check_several, positive, write_atomically
from ..data import Data, Task, check_data, read_once
from ..element import Elements, Floor, check_fractions, cost_of, total_macs
from ..errors import ParameterError, RecordError
from ..network import Accuracy, Evaluator, Loss, ask_one
from ..regression import ImpactTable
from ..scorers import Scorer, default_scorers, spent
from ._select import select

if TYPE_CHECKING:
    import keras

COLUMNS = ("scorer", "fraction", "seed", "accuracy", "loss", "params", "macs", "rows", "seconds")
FRACTIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
_TYPES: Any = dict.fromkeys(COLUMNS, float) | {"scorer": str} | dict.fromkeys(("seed", "params", "rows"), int)
_SETTINGS, _DONE = "comparison.json", "comparison.csv"
_WHOLE = "whole model"


def compare(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    scorers: Mapping[str, Scorer | Callable[..., ImpactTable]] | None = None,
    fractions: Sequence[float] = FRACTIONS,
    seeds: Sequence[int] = (0,),
    test_data: Data | None = None,
    floor: Floor = 1,
    task: Task | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Remove what each scorer finds least important, and see what is left.

    Parameters
    ----------
    model : keras.Model
        It is not changed: removing is masking, and nothing is trained.
    data : (x, y)
        Held-out examples that the scorers may use.
    elements : Elements
    scorers : dict of str to Scorer or callable, optional
        By the names they get in the table; a callable takes (model, data, elements, *, seed). By
        default `default_scorers()`.
    fractions : sequence of float
        Fractions of elements to remove.
    seeds : sequence of int
        Each scorer runs with each.
    test_data : (x, y), optional
        Other examples to measure on; `data` again by default, which flatters those that saw most of it.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, as in `select`.
    task : str, optional
        As in `sample`.
    out : str or Path, optional
        Folder that what is done is kept in; called again with the same arguments, a comparison that
        was stopped goes on.
    progress : bool
        Print a line when a scorer is done.

    Returns
    -------
    DataFrame
        One row for a scorer, fraction and seed: accuracy (NaN for a regression) and loss on the test
        data, params and multiply-adds (``macs``) that are left, rows (row-equivalents that the scorer
        spent) and seconds that it took. Fraction 0, without a scorer, is the whole model.

    Raises
    ------
    ParameterError
        If an argument is out of range, or a fraction would empty a layer.
    RecordError
        If `out` holds another comparison.
    ModelError, DataError
        As the scorers do; what was done stays in `out`.
    """
    chosen = _checked_scorers(scorers, seeds)
    check_fractions(elements, fractions, floor)
    data = read_once(data)
    judge = _Judge(model, data if test_data is None else test_data, elements, task)
    kept = _Kept(out, _fingerprint(judge, data, chosen, fractions, floor, task))
    if not kept.has(_WHOLE, 0, 1):
        kept.add([judge.line(np.ones(len(elements), bool), scorer=_WHOLE, fraction=0.0, seed=0)])
    for seed in seeds:
        for name, scorer in chosen.items():
            for draw in range(scorer.draws):
                given = int(seed) + 1000 * draw
                if not kept.has(name, given, len(fractions)):
                    lines = _run(judge, model, data, elements, name, scorer, fractions, given, floor)
                    kept.add(lines)
                    if progress:
                        shown = ", ".join(f"{line['fraction']:g}: {line['accuracy']:.3f}" for line in lines)
                        print(f"{name}, seed {given}: {shown} ({lines[0]['seconds']:.1f} s)", flush=True)
    return kept.frame()


def _checked_scorers(
    scorers: Mapping[str, Scorer | Callable[..., ImpactTable]] | None, seeds: Sequence[int]
) -> dict[str, Scorer]:
    check_several("seeds", seeds)
    for seed in seeds:
        positive("seeds", seed, least=0)
    if not len(seeds) or len(set(seeds)) != len(seeds):
        raise ParameterError(f"`seeds` must be one or more different integers, received {list(seeds)}.")
    found = default_scorers() if scorers is None else scorers
    if not isinstance(found, Mapping) or not found:
        raise ParameterError(f"`scorers` must be a dict of names to scorers, received {scorers!r}.")
    chosen = {name: s if isinstance(s, Scorer) else Scorer(s) for name, s in found.items()}
    for name, scorer in chosen.items():
        if not isinstance(name, str):
            raise ParameterError(f"`scorers` must have names as keys, received {name!r}: pass {str(name)!r}.")
        if name == _WHOLE:
            raise ParameterError(f"`scorers` must not be called {_WHOLE!r}, the line of fraction 0: rename it.")
        if not callable(scorer.function):
            raise ParameterError(f"scorer '{name}' must be callable, received {scorer.function!r}.")
    return chosen


def _run(
    judge: "_Judge",
    model: "keras.Model",
    data: Data,
    elements: Elements,
    name: str,
    scorer: Scorer,
    fractions: Sequence[float],
    seed: int,
    floor: Floor,
) -> list[dict[str, Any]]:
    """The lines of one scorer and seed."""
    lines = []
    table, seconds = None, 0.0
    for fraction in fractions:
        if table is None or scorer.per_fraction:
            more = {"fraction": fraction} if scorer.per_fraction else {}
            start = time.perf_counter()
            table = scorer.function(model, data, elements, seed=seed, **scorer.settings, **more)
            seconds = time.perf_counter() - start
        mask = select(elements, table, fraction=fraction, floor=floor).kept
        line = judge.line(mask, scorer=name, fraction=float(fraction), seed=seed)
        lines.append(line | {"rows": spent(table), "seconds": round(seconds, 3)})
    return lines


class _Judge:
    """Measures masks on the test data."""

    def __init__(self, model: "keras.Model", data: Data, elements: Elements, task: Task | None) -> None:
        self.question = ask_one(model, data, elements, outcome="loss", task=task, kept=None, seed=0)
        self.cost, self.total_macs = cost_of(model, elements), total_macs(model)
        self._outcomes = (Loss(),) if self.question.examples.task == "regression" else (Loss(), Accuracy())
        self._evaluator = Evaluator(self.question)

    def _measure(self, bundle: Any, mask: Any) -> Any:
        import tensorflow as tf

        prediction = self._evaluator.predict(bundle, mask)
        return tf.stack([outcome.measure(prediction, bundle.labels, prediction) for outcome in self._outcomes], axis=1)

    def line(self, mask: npt.NDArray[np.bool_], **labels: Any) -> dict[str, Any]:
        """One row of the comparison."""
        import tensorflow as tf

        evaluator = self._evaluator
        step = evaluator.once("judge", self._measure, tf.TensorSpec([None, evaluator.n_elements], tf.float32))
        kept = tf.constant(mask[np.newaxis], tf.float32)
        parts = [step(evaluator.bundle(block), kept) for block in evaluator.blocks(len(evaluator))]
        means = np.concatenate(parts).mean(axis=0, dtype=np.float64)
        params, macs = self.cost.saved(mask)
        return labels | {
            "accuracy": round(float(means[1]), 6) if len(means) > 1 else float("nan"),
            "loss": round(float(means[0]), 6),
            "params": self.cost.total - round(params),
            "macs": float(round(self.total_macs - macs)) if np.isfinite(self.total_macs - macs) else float("nan"),
            "rows": 0,
            "seconds": 0.0,
        }


class _Kept:
    """Lines that are done, in memory or in a folder."""

    def __init__(self, out: str | Path | None, settings: dict[str, Any]) -> None:
        self.folder = None if out is None else Path(out)
        self._lines: list[dict[str, Any]] = []
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"folder {self.folder}: cannot be made ({error}): choose another.") from error
        path = self.folder / _SETTINGS
        if path.exists():
            self._check_same(path, settings)
        if (self.folder / _DONE).exists():
            self._lines = _read_lines(self.folder / _DONE)
        write_atomically(path, lambda passing: Path(passing).write_text(json.dumps(settings, indent=1) + "\n"), 0)

    def _check_same(self, path: Path, settings: dict[str, Any]) -> None:
        """Raise unless the folder's comparison is this one, perhaps with other scorers and seeds besides."""
        try:
            there = json.loads(path.read_text())
            scorers = there["scorers"]
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{path}: expected the settings of a comparison, received {error!r}.") from error
        differing = [name for name in settings if name != "scorers" and there.get(name) != settings[name]]
        differing += [f"scorer '{k}'" for k, v in settings["scorers"].items() if scorers.get(k, v) != v]
        if differing:
            raise RecordError(
                f"folder {self.folder} holds another comparison ({', '.join(differing)} differ): expected the same "
                "arguments to go on with. Choose another folder."
            )
        settings["scorers"] = scorers | settings["scorers"]

    def has(self, scorer: str, seed: int, n_fractions: int) -> bool:
        return sum(line["scorer"] == scorer and line["seed"] == seed for line in self._lines) == n_fractions

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Take in the lines of one scorer and seed, and write all."""
        there = {(line["scorer"], line["seed"]) for line in lines}
        self._lines = [line for line in self._lines if (line["scorer"], line["seed"]) not in there] + lines
        if self.folder is not None:
            frame = self.frame()
            write_atomically(self.folder / _DONE, lambda path: frame.to_csv(path, index=False), 0)

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self._lines)[list(COLUMNS)]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a comparison as they were written; a scorer may have any name, "None" or "1" too."""
    try:
        unknown = {name: [""] for name in ("accuracy", "macs")}
        frame: Any = pd.read_csv(path, dtype=_TYPES, keep_default_na=False, na_values=unknown)
        return frame[list(COLUMNS)].to_dict("records")
    except (OSError, ValueError, KeyError) as error:
        raise RecordError(
            f"{path}: expected the lines of a comparison, received {error!r}: choose another folder, or remove the "
            "file to begin again."
        ) from error


def _fingerprint(
    judge: _Judge, data: Data, scorers: dict[str, Scorer], fractions: Sequence[float], floor: Floor, task: Task | None
) -> dict[str, Any]:
    """What a comparison follows from; other scorers and seeds may be added to it."""
    question, weights = judge.question, hashlib.sha256()
    for array in question.model.get_weights():
        weights.update(np.ascontiguousarray(array).data)
    return {
        "elements": hashlib.sha256("".join(question.elements.names).encode()).hexdigest()[:16],
        "weights": weights.hexdigest()[:16],
        "data": check_data(question.model, data, task).fingerprint(),
        "test_data": question.examples.fingerprint(),
        "fractions": [float(fraction) for fraction in fractions],
        "floor": dict(floor) if isinstance(floor, Mapping) else floor,
        "scorers": {name: str(scorer) for name, scorer in scorers.items()},
    }
