"""Estimators of shapiq on masks that are recorded already (optional extra)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import binom

from ..designs import BoolMasks, design_from
from ..errors import ParameterError
from ..impact import ImpactTable, impact_table
from ..interactions import Interactions
from ..record import Record
from .question import Array
from .shapiq_bridge import from_shapiq

MOST_ELEMENTS = 1_000
"""Most elements for which the kernels of shapiq, binomial coefficients among them, are finite and not zero."""
_MOST_BYTES = 2**31


@dataclass(frozen=True)
class RecordedMasks:
    """Stands in for the sampler of an estimator of shapiq: instead of drawing, it gives what is recorded.

    Attributes
    ----------
    coalitions_matrix : ndarray of bool, shape (n_coalitions, n_elements)
        True = kept.
    sampling_adjustment_weights : ndarray of float64, shape (n_coalitions,)
        What the estimator's own kernel is multiplied with.
    values : ndarray of float64, shape (n_coalitions,)
        Larger = better, the whole network's is 0.
    """

    coalitions_matrix: BoolMasks
    sampling_adjustment_weights: Array
    values: Array

    @property
    def empty_coalition_index(self) -> int:
        """Where all elements are dropped."""
        return int(np.flatnonzero(~self.coalitions_matrix.any(axis=1))[0])

    def sample(self, sampling_budget: int) -> None:
        """Draw nothing."""

    def game(self, coalitions: npt.ArrayLike) -> Array:
        """Values of all recorded coalitions, which are the only ones that can be asked for."""
        assert np.array_equal(np.asarray(coalitions, dtype=bool), self.coalitions_matrix)
        return self.values.copy()


def shapiq_regress(
    record: Record,
    *,
    outcome: str = "accuracy",
    estimator: Callable[..., Any] | None = None,
    order: Literal[1, 2] = 1,
) -> ImpactTable:
    """Let an estimator of shapiq work on recorded masks; the network does not run again.

    Which index comes out depends on the estimator and on the design of the record:

    ``RegressionFBII`` (the default)
        Every mask counts as often as it was drawn. So this is the best additive (order 1) or pairwise
        (order 2) fit under the design: the Banzhaf index at ``Bernoulli(0.5)``, at other rates the
        semivalue at the design's keep-probabilities [1]_. Its impacts are those of ``regress`` by
        'ols' without pairs of masks.
    ``KernelSHAP``, ``KernelSHAPIQ``, ``InconsistentKernelSHAPIQ``, ``kADDSHAP``, ``RegressionFSII``
        Shapley values and interactions. Each mask is weighted by the Shapley kernel over its
        probability under the design, so that any independent design leads to the same index. The
        weights grow exponentially uneven with the number of elements: ``effective masks`` among the
        details says how many masks of equal weight the estimate is worth. These estimators are
        pinned to the outcome without any element, so that some masks must drop everything.
        ``KernelSHAPIQ`` fits pairs to what single elements leave, which is only roughly theirs.
    ``ProxySPEX``
        Boosted trees (package lightgbm) are fitted to all rows alike, and the index, Banzhaf unless
        another is chosen, is that of the fitted trees without their smallest terms. Its values for masks
        that the design hardly draws are guesses.

    A row is a noisy value of its mask: on its own examples, relative to the whole network's outcome on them.
    Masks that come again are averaged (``ProxySPEX`` gets every row). The examples' noise makes the
    estimates vary; none of these estimators gives standard errors.

    Parameters
    ----------
    record : Record
    outcome : str
        One of the record's outcomes.
    estimator : callable, optional
        One of these classes of ``shapiq.approximator``, or a ``functools.partial`` of one; called with
        ``n``, ``max_order`` and ``random_state``.
    order : {1, 2}
        With 2, interactions of pairs too. Impacts are always those of order 1: the first-order terms
        of a fit with pairs say what an element does on its own, not what is lost with it.

    Returns
    -------
    ImpactTable
        In the outcome's unit, without standard errors; ``interactions`` with order 2.

    Raises
    ------
    ParameterError
        If shapiq is not installed, the estimator must draw its own masks or cannot do with the
        recorded ones, or they cannot identify the elements.

    References
    ----------
    .. [1] Tsai, Yeh, Ravikumar (2023), "Faith-Shap", JMLR 24(94), for uniform weights.
    """
    settings = record.settings
    chosen = from_shapiq("RegressionFBII", "shapiq_regress") if estimator is None else estimator
    kind = chosen.func if isinstance(chosen, partial) else chosen
    name = getattr(kind, "__name__", str(kind))
    _check_arguments(record, outcome, kind, name, order)
    masks, values = _rows_of(record, outcome)
    details: dict[str, Any] = {"rows counted": "all alike"}
    if name == "ProxySPEX":
        given = RecordedMasks(masks, np.ones(len(masks)), values)
    else:
        distinct, counts, means = _averaged(masks, values)
        _check_identified(distinct, order, name)
        if name == "RegressionFBII":
            given = _as_drawn(distinct, counts, means)
        else:
            given, details = _reweighted(record, name, distinct, counts, means)
    n = settings.n_elements
    found = [_ask(chosen, name, given, max_order, settings.seed) for max_order in range(1, order + 1)]
    details["index"] = str(getattr(found[0], "index", name))
    return impact_table(
        record.elements,
        np.array([float(found[0][(j,)]) for j in range(n)]),
        method=f"shapiq {name}",
        outcome=outcome,
        rows=record.rows,
        seed=settings.seed,
        details=details,
        interactions=_interactions(found[1], tuple(record.elements["element"])) if order == 2 else None,
        stop=record.stop,
    )


def _check_arguments(record: Record, outcome: str, kind: Any, name: str, order: int) -> None:
    settings = record.settings
    if outcome not in settings.outcomes:
        raise ParameterError(
            f"`outcome` must be one of the record's ({', '.join(settings.outcomes)}), received {outcome!r}: "
            f"sample again with outcomes=({outcome!r},)."
        )
    if order not in (1, 2):
        raise ParameterError(f"`order` must be 1 or 2, received {order!r}.")
    if not (hasattr(kind, "regression_routine") or name == "ProxySPEX"):
        raise ParameterError(
            "`estimator` must be one that fits given masks (RegressionFBII, RegressionFSII, KernelSHAP, KernelSHAPIQ, "
            f"InconsistentKernelSHAPIQ, kADDSHAP, ProxySPEX), received {name}, which draws its own: pass it to "
            "`shapiq_scores`."
        )
    if settings.n_elements > MOST_ELEMENTS:
        raise ParameterError(
            f"`record` must have at most {MOST_ELEMENTS:,} elements for estimators of shapiq, received "
            f"{settings.n_elements:,}: sample those of some layers with include=, or use `regress`."
        )


def _rows_of(record: Record, outcome: str) -> tuple[BoolMasks, Array]:
    """Masks (n_masks, n_elements) and their values (n_masks,), larger = better."""
    settings = record.settings
    column = settings.outcomes.index(outcome)
    chunks = list(record.chunks())
    if not chunks:
        raise ParameterError("`record` must hold rows, received none: sample into it again.")
    values = np.concatenate([chunk.effects[:, column] for chunk in chunks])
    return np.concatenate([chunk.masks for chunk in chunks]), values if settings.greater_is_better[column] else -values


def _averaged(masks: BoolMasks, values: Array) -> tuple[BoolMasks, Array, Array]:
    """Distinct masks, how often each was drawn, and its mean value."""
    packed, place, counts = np.unique(np.packbits(masks, axis=1), axis=0, return_inverse=True, return_counts=True)
    distinct = np.unpackbits(packed, axis=1, count=masks.shape[1]).view(np.bool_)
    return distinct, counts.astype(np.float64), np.bincount(place.ravel(), values) / counts


def _check_identified(masks: BoolMasks, order: int, name: str) -> None:
    """Raise ParameterError unless the masks (distinct ones) tell all terms up to an order apart."""
    n_masks, n = masks.shape
    n_terms = sum(int(binom(n, size)) for size in range(order + 1))
    if 8 * n_masks * n_terms > _MOST_BYTES:
        raise ParameterError(
            f"{name} of order {order} must have a matrix of at most {_MOST_BYTES / 2**30:.0f} GiB, received "
            f"{n_masks:,} masks x {n_terms:,} terms, {8 * n_masks * n_terms / 2**30:,.1f} GiB: pass "
            "record.head(n_chunks), or use `regress`, which holds no rows."
        )
    columns = [masks[:, term].all(axis=1) for size in range(order + 1) for term in combinations(range(n), size)]
    terms = np.stack(columns, axis=1).astype(np.float32)
    if n_masks < n_terms or np.linalg.matrix_rank((terms.T @ terms).astype(np.float64), hermitian=True) < n_terms:
        raise ParameterError(
            f"{n_masks:,} distinct masks cannot identify the {n_terms:,} terms of {name} of order {order}: draw more "
            "rows, at a rate at which all pairs are dropped together in some."
        )


def _as_drawn(masks: BoolMasks, counts: Array, values: Array) -> RecordedMasks:
    """Every mask weighted by how often it was drawn; an empty one, where missing, that weighs nothing."""
    if masks.any(axis=1).all():  # shapiq measures from its value and adds it again
        masks = np.vstack([masks, np.zeros((1, masks.shape[1]), dtype=bool)])
        counts, values = np.append(counts, 0.0), np.append(values, 0.0)
    return RecordedMasks(masks, counts, values)


def _reweighted(
    record: Record, name: str, masks: BoolMasks, counts: Array, values: Array
) -> tuple[RecordedMasks, dict[str, Any]]:
    """Every mask weighted by how often it was drawn over how often it was to be expected."""
    design = design_from(record.settings.design)
    n = record.settings.n_elements
    sizes = masks.sum(axis=1)
    if not (sizes == 0).any():
        raise ParameterError(
            f"{name} must have masks that drop everything, for the outcome without any element, received none among "
            f"{int(counts.sum()):,}: sample more rows at a higher rate, pass RegressionFBII, or let it choose its own "
            "masks by `shapiq_scores`."
        )
    if not (sizes == n).any():  # the whole network's value is known: it is what the others are relative to
        masks, sizes = np.vstack([masks, np.ones((1, n), dtype=bool)]), np.append(sizes, n)
        counts, values = np.append(counts, 1.0), np.append(values, 0.0)
    kept = design.keep_probabilities(n)
    inner = (sizes > 0) & (sizes < n)
    log_chance = np.where(inner, masks @ np.log(kept) + ~masks @ np.log1p(-kept), 0.0)
    # whole and empty weigh 1, as shapiq weighs what it does not draw
    weights = np.where(inner, counts / counts.sum() * np.exp(-log_chance), 1.0)
    each = weights[inner] / counts[inner] / binom(n - 2, sizes[inner] - 1)
    total, squares = (counts[inner] * each).sum(), (counts[inner] * each**2).sum()
    return RecordedMasks(masks, weights, values), {"effective masks": float(total**2 / squares) if squares else 0.0}


def _ask(chosen: Callable[..., Any], name: str, given: RecordedMasks, max_order: int, seed: int) -> Any:
    """What the estimator makes of the recorded masks."""
    try:
        approximator = chosen(n=given.coalitions_matrix.shape[1], max_order=max_order, random_state=seed)
    except ImportError as error:
        raise ParameterError(f"{name} must have all that it imports, received: {error}") from error
    if approximator.max_order != max_order:
        raise ParameterError(
            f"`order` must be {approximator.max_order} for {name}, received {max_order}: pass RegressionFBII, or "
            "KernelSHAPIQ for Shapley interactions."
        )
    # an estimator of shapiq takes no sampler from outside: these are the two places where it keeps its own
    approximator._sampler = approximator._uniform_sampler = given
    return approximator.approximate(len(given.values), given.game)


def _interactions(found: Any, names: tuple[str, ...]) -> Interactions:
    n = len(names)
    values, errors = np.zeros((n, n)), np.full((n, n), np.nan)
    for i, j in combinations(range(n), 2):
        values[i, j] = values[j, i] = -float(found[(i, j)])
    np.fill_diagonal(errors, np.inf)
    return Interactions(names, values, errors)
