"""Which outcome a name or an object means, and whether it can be measured."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..data import Examples, Prediction
from ..errors import DataError, ParameterError
from ._keras_outcomes import from_keras
from ._outcomes import Accuracy, Divergence, Loss, Margin, Outcome, RetainedAccuracy

_KINDS: tuple[type[Outcome], ...] = (Accuracy, RetainedAccuracy, Loss, Margin, Divergence)
_BY_NAME = {kind.name: kind for kind in _KINDS}
NAMES = tuple(_BY_NAME)


OutcomeLike = str | Outcome | Callable[..., Any]
"""A name, an `Outcome`, or a loss or metric of Keras (`keras.losses`, `keras.metrics`)."""


def resolve(outcome: OutcomeLike) -> Outcome:
    """Return `outcome`, or the outcome that a name, a loss or a metric of Keras means; ParameterError if none."""
    if isinstance(outcome, Outcome):
        return outcome
    if isinstance(outcome, str) and outcome in _BY_NAME:
        return _BY_NAME[outcome]()
    if not isinstance(outcome, str):
        found = from_keras(outcome)
        if found is not None:
            return found
    raise ParameterError(f"`outcome` must be one of {', '.join(_BY_NAME)}, received {outcome!r}{_remedy(outcome)}.")


def _remedy(outcome: Any) -> str:
    """Return how to measure what is not an outcome."""
    if isinstance(outcome, type):
        return f": pass an instance, such as {outcome.__name__}()"
    if not callable(outcome):
        return ""
    return (
        ": wrap a function as dropreg.outcomes.PerExample(function, name, greater_is_better), or as PerMask if it "
        "needs several examples"
    )


def resolve_all(outcomes: OutcomeLike | Sequence[OutcomeLike]) -> tuple[Outcome, ...]:
    """Return one or more outcomes; ParameterError if there is none or if two have the same name."""
    several: Any = outcomes if isinstance(outcomes, Iterable) and not isinstance(outcomes, str) else [outcomes]
    resolved = tuple(resolve(outcome) for outcome in several)
    names = [outcome.name for outcome in resolved]
    if not names or len(set(names)) != len(names):
        raise ParameterError(f"`outcomes` must be one or more different outcomes, received {names}.")
    taken = {
        "mask",
        "masks",
        "example",
        "examples",
        "rate",
        *(f"{name}_{suffix}" for name in names for suffix in ("change", "n")),
    }
    if clash := taken.intersection(names):
        raise ParameterError(
            "the name of an outcome must not be one of the record's columns or begin one, received "
            f"{sorted(clash)[0]!r}: choose another name."
        )
    return resolved


def check_outcomes(outcomes: Sequence[Outcome], examples: Examples) -> None:
    """Raise DataError if an outcome needs labels and there are none, ParameterError if it cannot measure examples."""
    for outcome in outcomes:
        if outcome.needs_labels and examples.labels is None:
            raise DataError(f"outcome '{outcome.name}' must have labels, received y=None: use outcome 'divergence'.")
        if outcome.needs_classes and examples.task == "regression":
            raise ParameterError(f"outcome '{outcome.name}' must have classes, received a regression task: use 'loss'.")
        if examples.weights is not None and not outcome.takes_weights:
            raise ParameterError(
                f"outcome '{outcome.name}' must have a function with a parameter `sample_weight` where examples have "
                "weights, received one without: add it, or leave out w."
            )
        if not outcome.averages and examples.has_position_weights:
            raise ParameterError(
                f"outcome '{outcome.name}' must be a mean over positions where `w` has weights of positions: pass one "
                "weight for each example, or an outcome such as 'loss'."
            )


def check_logits(outcomes: Sequence[Outcome], prediction: Prediction) -> None:
    """Raise ParameterError if an outcome expects probabilities and outputs are logits, or the reverse."""
    kinds = ("probabilities", "logits")
    for outcome in outcomes:
        expects, given = outcome.expects_logits, prediction.from_logits
        if prediction.task != "regression" and expects not in (None, given):
            raise ParameterError(
                f"outcome '{outcome.name}' must have outputs that are {kinds[expects]}, received {kinds[given]}: make "
                f"the loss or metric with from_logits={given}, if it has this argument, or use one of dropreg."
            )
