"""Compare scorers: accuracy and loss of the masked model at several fractions, and the cost of scoring."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .._utils import check_identified, check_several, positive, read_json, write_atomically, write_json
from ..data import Data, Task, check_data, read_once
from ..element import Elements, Floor, check_fractions, cost_of, total_macs
from ..errors import ParameterError, RecordError
from ..network import Accuracy, Evaluator, Loss, ask_one, differences, identity_of
from ..regression import ImpactTable
from ..scorers import Scorer, default_scorers, spent
from ._select import select

if TYPE_CHECKING:
    import keras

COLUMNS = ("scorer", "fraction", "seed", "accuracy", "loss", "params", "macs", "rows", "seconds")
FRACTIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
_TYPES: Any = dict.fromkeys(COLUMNS, float) | {"scorer": str} | dict.fromkeys(("seed", "params", "rows"), int)
_SETTINGS, _DONE = "comparison.json", "comparison.csv"
_ORIGINAL = "original model"


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
    """Mask the elements that each scorer ranks lowest, and measure the masked model on test data.

    Parameters
    ----------
    model : keras.Model
        It is not changed: elements are masked, and nothing is trained.
    data : (x, y)
        Held-out examples for the scorers.
    elements : Elements
    scorers : dict of str to Scorer or callable, optional
        Scorers by the names they get in the table, by default `dropreg.scorers.default_scorers()`. A callable takes
        (model, data, elements, *, seed).
    fractions : sequence of float
        Fractions of the elements to remove.
    seeds : sequence of int
        Every scorer runs once with each seed.
    test_data : (x, y), optional
        Other examples to measure on. By default `data`, which favours scorers that used much of it.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, as in `select`.
    task : str, optional
        As in `sample`; also of scorers that take ``task=`` and whose settings do not hold it.
    out : str or Path, optional
        Folder for finished results; a comparison that was interrupted resumes when called with the same arguments.
        Model, elements, data, options, versions and scorers must be the same, whatever differs is named; other scorers
        and seeds may be added.
    progress : bool, optional
        Print a line for each result; by default on a terminal only.

    Returns
    -------
    DataFrame
        One row for each scorer, fraction and seed, with the columns scorer, fraction, seed, accuracy (NaN for a
        regression), loss, params, macs (remaining parameters and multiply-adds), rows (row-equivalents that the scorer
        used) and seconds (of the scorer). The first row, of fraction 0, is the original model.

    Raises
    ------
    ParameterError
        If an argument is out of range, a fraction would empty a layer, or `out` is given and a scorer cannot be
        recognized by its code and data: give it a `version`.
    RecordError
        If `out` holds another comparison.
    ModelError, DataError
        As raised by the scorers; finished results remain in `out`.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("test")
    >>> scorers = {"magnitude": dr.scorers.magnitude, "random": dr.scorers.random}
    >>> table = dr.compare(model, (x[:500], y[:500]), dr.elements(model), scorers=scorers, fractions=(0.5,))
    >>> table["scorer"].tolist()
    ['original model', 'magnitude', 'random']
    """
    chosen = _checked_scorers(scorers, seeds)
    check_fractions(elements, fractions, floor)
    data = read_once(data)
    judge = _Judge(model, data if test_data is None else test_data, elements, task)
    done = _Results(out, {} if out is None else _identity(judge, data, chosen, fractions, floor, task))
    if not done.has(_ORIGINAL, 0, 1):
        done.add([judge.line(np.ones(len(elements), bool), scorer=_ORIGINAL, fraction=0.0, seed=0)])
    for seed in seeds:
        for name, scorer in chosen.items():
            for draw in range(scorer.draws):
                given = int(seed) + 1000 * draw
                if not done.has(name, given, len(fractions)):
                    lines = _run(judge, data, name, scorer, fractions, given, floor)
                    done.add(lines)
                    if sys.stdout.isatty() if progress is None else progress:
                        shown = ", ".join(f"{line['fraction']:g}: {line['accuracy']:.3f}" for line in lines)
                        print(f"{name}, seed {given}: {shown} ({lines[0]['seconds']:.1f} s)", flush=True)
    return done.frame()


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
        if name == _ORIGINAL:
            raise ParameterError(
                f"`scorers` must not be called {_ORIGINAL!r}, the name of the row of fraction 0: rename it."
            )
        if not callable(scorer.function):
            raise ParameterError(f"scorer '{name}' must be callable, received {scorer.function!r}.")
    return chosen


def _run(
    judge: "_Judge", data: Data, name: str, scorer: Scorer, fractions: Sequence[float], seed: int, floor: Floor
) -> list[dict[str, Any]]:
    """Return the rows of one scorer and seed."""
    question, lines, table, seconds = judge.question, [], None, 0.0
    settings = scorer.settings_with(judge.task)
    for fraction in fractions:
        if table is None or scorer.per_fraction:
            more = {"fraction": fraction} if scorer.per_fraction else {}
            start = time.perf_counter()
            table = scorer.function(question.model, data, question.elements, seed=seed, **settings, **more)
            seconds = time.perf_counter() - start
        mask = select(question.elements, table, fraction=fraction, floor=floor).kept
        line = judge.line(mask, scorer=name, fraction=float(fraction), seed=seed)
        lines.append(line | {"rows": spent(table), "seconds": round(seconds, 3)})
    return lines


class _Judge:
    """Measure masked models on the test data."""

    def __init__(self, model: "keras.Model", data: Data, elements: Elements, task: Task | None) -> None:
        self.question = ask_one(model, data, elements, outcome="loss", task=task, kept=None, seed=0)
        self.task: Task | None = task
        self.cost, self.total_macs = cost_of(model, elements), total_macs(model)
        self._outcomes = (Loss(),) if self.question.examples.task == "regression" else (Loss(), Accuracy())
        self._evaluator = Evaluator(self.question)

    def _measure(self, bundle: Any, mask: Any) -> Any:
        import tensorflow as tf

        prediction = self._evaluator.predict(bundle, mask)
        return tf.stack(
            [self._evaluator.measure_one(outcome, prediction, bundle) for outcome in self._outcomes], axis=1
        )

    def line(self, mask: npt.NDArray[np.bool_], **labels: Any) -> dict[str, Any]:
        """Return one row of the comparison."""
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


class _Results:
    """Finished rows, in memory or in a folder."""

    def __init__(self, out: str | Path | None, settings: dict[str, Any]) -> None:
        self.folder = None if out is None else Path(out)
        self._lines: list[dict[str, Any]] = []
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"folder {self.folder}: cannot be created ({error}): choose another.") from error
        path = self.folder / _SETTINGS
        if path.exists():
            settings = self._joined(path, settings)
        if (self.folder / _DONE).exists():
            self._lines = _read_lines(self.folder / _DONE)
        write_json(path, {"date": datetime.now(UTC).isoformat(timespec="seconds"), **settings}, 0)

    def _joined(self, path: Path, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the folder's settings with more scorers; RecordError unless all others agree."""
        try:
            there = read_json(path)
            scorers = there["scorers"]
        except (OSError, ValueError, KeyError) as error:
            raise RecordError(
                f"{path}: expected the settings of a comparison, received {error}: choose another folder."
            ) from error
        if differing := differences(settings, there):
            raise RecordError(
                f"folder {self.folder} holds another comparison: {'; '.join(differing)}. Choose another folder."
            )
        return {**there, "scorers": scorers | settings["scorers"]}

    def has(self, scorer: str, seed: int, n_fractions: int) -> bool:
        return sum(line["scorer"] == scorer and line["seed"] == seed for line in self._lines) == n_fractions

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Add the rows of one scorer and seed, and write all rows."""
        there = {(line["scorer"], line["seed"]) for line in lines}
        self._lines = [line for line in self._lines if (line["scorer"], line["seed"]) not in there] + lines
        if self.folder is not None:
            frame = self.frame()
            write_atomically(self.folder / _DONE, lambda path: frame.to_csv(path, index=False), 0)

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self._lines)[list(COLUMNS)]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a written comparison; names of scorers such as "None" and "1" remain strings."""
    try:
        unknown = {name: [""] for name in ("accuracy", "macs")}
        frame: Any = pd.read_csv(path, dtype=_TYPES, keep_default_na=False, na_values=unknown)
        return frame[list(COLUMNS)].to_dict("records")
    except (OSError, ValueError, KeyError) as error:
        raise RecordError(
            f"{path}: expected the rows of a comparison, received {error!r}: choose another folder, or remove the "
            "file to start again."
        ) from error


def _identity(
    judge: _Judge, data: Data, scorers: dict[str, Scorer], fractions: Sequence[float], floor: Floor, task: Task | None
) -> dict[str, Any]:
    """Return settings that identify a comparison; ParameterError if a scorer cannot be recognized."""
    for name, scorer in scorers.items():
        check_identified(f"scorer '{name}'", scorer)
    found = identity_of(judge.question)
    return {
        **found,
        "data": check_data(judge.question.model, data, task).fingerprints(),
        "test_data": found["data"],
        "fractions": [float(fraction) for fraction in fractions],
        "floor": dict(floor) if isinstance(floor, Mapping) else floor,
        "scorers": {name: scorer.identity() for name, scorer in scorers.items()},
    }
