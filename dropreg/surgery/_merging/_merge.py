"""Compensate for removed channels by refitting the layers that consume them.

A layer multiplies its input channels x with the rows W of its kernel; in the smaller model it gets x', the kept
channels as the smaller model computes them. `LeastSquares` gives it the rows V that minimise

    E |(x - Ex) W - (x' - Ex') V|^2 + ridge |V - P W|^2

where P W are the rows that deletion leaves, and corrects its bias by the change of the mean. A convolution applies the
same mixing of channels at every tap. Layers are refitted in order, each on the activations of the already smaller
model, so each one also compensates for errors of the layers before it. A recurrent layer consumes its own states as
well, by another kernel: there x are the states of the original model and x' the kept ones among them, so that errors
are not fed back during the fit (a GRU with ``reset_after=False``, which multiplies states before it mixes them, is not
refitted). In an attention layer the query, key, value, gate and output projections are refitted in turn, if heads are
removed or the layer's inputs have changed.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import log_softmax

from ..._utils import Array, spread_rows
from ...data import Examples
from ...errors import DataError
from ...graph import Call
from ...layers import Carry, LinearReader, Moments, readout, rule_for
from .._rebuild import Rebuilt
from .._zeros import HoldZeros
from ._fit_rows import fit_rows
from ._merged_layer import MergedLayer
from ._ridge import fit_predictions
from ._side_by_side import SideBySide
from ._strategies import RIDGES, LeastSquares

PENALTIES = (1e-2, 1e-3, 1e-4, 1e-5)
"""On squared changes of the last layer's kernel for standardized activations, in nats."""
_MOST_ROWS = 10_000
"""Output positions that the last layer is fitted to."""
_UNCHANGED = {"ridge": np.inf, "unexplained": 1.0}


def merge_into(rebuilt: Rebuilt, examples: Examples, strategy: LeastSquares, *, classes: bool) -> pd.DataFrame:
    """Refit layers of the new model in place and return `Pruned.merged`.

    Errors are weighted by the weights of examples, and by those of positions where activations have as many positions
    as the output. With `classes`, outputs that are not probabilities are logits. Raises DataError if there is a single
    example, or activations are not finite.
    """
    examples = examples.part(spread_rows(len(examples), strategy.most_examples))
    if len(examples) < 2:
        raise DataError(
            "`data` must hold at least two examples to merge by least squares, one of them to be held out, received "
            "one: pass more, or merge='none'."
        )
    weights = None if examples.weights is None else examples.weights / examples.weights.mean()
    models = SideBySide(
        *(rebuilt, examples.inputs, strategy.held_out, strategy.batch_size),
        weights=weights,
        position_weights=examples.position_weights,
    )
    plan = rebuilt.plan
    changed = set(plan.replaced)  # slots whose kept channels have other values than in the original model
    done: set[int] = set()
    rows = []
    last = None
    for index, (old, new) in enumerate(rebuilt.pairs):
        rule, layer = rule_for(old.layer), MergedLayer(models, index)
        loses_inputs = not all(plan.kept[slot].all() for slot in old.inputs)
        has_changed_inputs = bool(changed.intersection(old.inputs))
        loses_states = not all(kept.all() for kept in layer.states_kept)
        loses_heads = id(old.layer) in plan.heads
        concerned = loses_inputs or has_changed_inputs or loses_states or loses_heads
        if concerned and id(old.layer) not in done and not _is_shared(rebuilt, old):
            done.add(id(old.layer))
            models.finalize(index)
            if isinstance(rule, LinearReader):
                last = layer
                rows += [_fit_inputs(layer, rule, strategy)] if loses_inputs or has_changed_inputs else []
                rows += _fit_states(layer, rule, strategy) if loses_states else []
            elif rule.matches_moments and has_changed_inputs:
                _match_moments(layer)
            elif rule.projections(old.layer) and rule.blocked(old) is None:
                rows += _fit_projections(layer, strategy)
        changed_inside = loses_heads or len(old.inputs) != len(new.inputs) or loses_states
        if has_changed_inputs or changed_inside or (loses_inputs and not isinstance(rule, Carry)):
            changed.update(old.outputs)
    if last is not None and strategy.predictions:
        _fit_last_layer(last, classes=classes)
    return pd.DataFrame(rows, columns=["layer", "ridge", "unexplained"])


def _is_shared(rebuilt: Rebuilt, call: Call) -> bool:
    """Return whether another layer uses weights of the called one, and would change with it."""
    return rebuilt.before.shared.other(call.layer, call.name) is not None


def _fit_inputs(layer: MergedLayer, rule: LinearReader, strategy: LeastSquares) -> dict[str, Any]:
    """Refit the kernel that consumes a layer's inputs, then correct its bias."""
    old, new, kept = layer.old, layer.new, layer.plan.kept
    full = rule.cut(old, [np.ones_like(kept[slot]) for slot in old.inputs], [kept[slot] for slot in old.outputs])
    row = {"layer": old.name, **_UNCHANGED}
    rows = None if _is_constrained(old.layer, "kernel") else rule.kernel_rows(old, full.weights)
    shifts = _can_shift(rule, old)
    if rows is not None:
        fitted = fit_rows(layer, layer.consumed, rows, strategy, centre=shifts or _feeds_matched(layer))
        new.layer.set_weights(rule.with_kernel_rows(new, new.layer.get_weights(), fitted.rows))
        row |= fitted.row
    if shifts:
        before, after = layer.models.mean_maps(layer.slots)
        shift = np.mean(
            [
                _mean_response(rule, old, full.config, full.weights, b)
                - _mean_response(rule, new, new.layer.get_config(), new.layer.get_weights(), a)
                for b, a in zip(before, after, strict=True)
            ],
            axis=0,
        )
        new.layer.set_weights(rule.shifted(new, new.layer.get_weights(), shift))
    return row


def _fit_states(layer: MergedLayer, rule: LinearReader, strategy: LeastSquares) -> list[dict[str, Any]]:
    """Refit the kernels that consume a layer's own states, unless this makes its outputs less informative.

    Errors are fed back at inference, which can do harm if few states are kept.
    """
    old, new = layer.old, layer.new
    if _is_constrained(old.layer, "recurrent_kernel"):
        return []
    can_shift, found = _can_shift(rule, old), []
    for consumed, kernel in zip(layer.states(), rule.state_rows(old, old.layer.get_weights()), strict=False):
        columns = np.tile(consumed.kept, kernel.shape[1] // len(consumed.kept))  # gates by units
        found.append(fit_rows(layer, consumed, [kernel[:, columns]], strategy, centre=can_shift))
    if not found:
        return []
    deleted, without = new.layer.get_weights(), layer.unexplained(RIDGES)
    rows, shifts = [fitted.rows[0] for fitted in found], [fitted.shifts[0] * can_shift for fitted in found]
    new.layer.set_weights(rule.with_state_rows(new, deleted, rows, shifts))
    harmful = layer.unexplained(RIDGES) >= without
    if harmful:
        new.layer.set_weights(deleted)
    return [{"layer": f"{old.name} (state)", **(_UNCHANGED if harmful else fitted.row)} for fitted in found]


def _fit_projections(layer: MergedLayer, strategy: LeastSquares) -> list[dict[str, Any]]:
    """Refit the projections inside a layer, one after the other."""
    rows = []
    befores, afters = (layer.rule.projections(call.layer) for call in (layer.old, layer.new))
    for part, after in afters.items():
        consumed = layer.inside(part)
        if _is_constrained(after.layer, "kernel"):
            continue
        # Removed heads are columns of the input projections and rows of the output projection.
        kernel = after.kernel if consumed.kept.all() else befores[part].kernel
        can_shift = after.layer.bias is not None and not _is_constrained(after.layer, "bias")
        fitted = fit_rows(layer, consumed, [kernel], strategy, centre=can_shift)
        after.learn(fitted.rows[0], fitted.shifts[0] * can_shift)
        rows.append({"layer": f"{layer.old.name} ({part})", **fitted.row})
    return rows


def _is_constrained(layer: Any, name: str) -> bool:
    """Return whether weights with this name have a constraint, such as non-negativity, that merging would violate."""
    bound = [v for v in layer.weights if v.constraint is not None and not isinstance(v.constraint, HoldZeros)]
    names = [name, f"depthwise_{name}", f"pointwise_{name}"]
    return any(variable.name in names for variable in bound)


def _can_shift(rule: LinearReader, call: Call) -> bool:
    """Return whether a layer has a bias that may be changed."""
    return rule.has_bias(call) and not _is_constrained(call.layer, "bias")


def _feeds_matched(layer: MergedLayer) -> bool:
    """Return whether only normalizations consume the layer's output, whose statistics will correct the mean."""
    outputs = set(layer.old.outputs)
    consumers = [call for call, _ in layer.models.rebuilt.pairs if outputs.intersection(call.inputs)]
    return bool(consumers) and all(rule_for(call.layer).matches_moments for call in consumers)


def _mean_response(
    rule: LinearReader, call: Call, config: dict[str, Any], weights: list[Array], mean_map: Array
) -> npt.NDArray[np.float64]:
    """Return a layer's response, before its activation, to the mean of its inputs, averaged over positions."""
    response = rule.respond(call, config, weights, mean_map[np.newaxis])
    return response.reshape(-1, response.shape[-1]).mean(axis=0)


def _match_moments(layer: MergedLayer) -> None:
    """Set the statistics of a normalization so that its output has the original mean and variance."""
    new, kept = layer.new, layer.consumed.kept
    before, after = layer.models.channel_moments(layer.slots)
    before = Moments(before.mean[kept], before.variance[kept])
    new.layer.set_weights(layer.rule.with_moments(new, new.layer.get_weights(), before, after))


def _fit_last_layer(layer: MergedLayer, *, classes: bool) -> None:
    """Fit the last layer to the original model's probabilities if its outputs are their logarithms."""
    old, new, rule = layer.old, layer.new, layer.rule
    if any(_is_constrained(old.layer, name) for name in ("kernel", "bias")):
        return
    graph = layer.models.rebuilt.before
    rows = [readout(rule, call) for call in (old, new)]
    if len(graph.outputs) != 1 or len(layer.slots) != 1 or rows[0] is None or rows[1] is None:
        return
    if len(graph.shapes[graph.outputs[0]]) != len(old.input_shapes[0]):
        return
    found = layer.models.gather([graph.outputs[0], old.inputs[0]], _MOST_ROWS)
    if found is None:
        return
    (outputs, _), (x_before, x_after) = found.pairs
    logits = x_before @ rows[0][0] + rows[0][1]
    log_p = log_softmax(logits, axis=1)
    if logits.shape != outputs.shape or logits.shape[1] < 2:
        return
    possible = [np.exp(log_p), logits] if classes else [np.exp(log_p)]
    if not any(np.allclose(values, outputs, rtol=1e-3, atol=1e-3) for values in possible):
        return
    kernel, bias = fit_predictions(x_after, log_p, found.held_out, rows[1], PENALTIES, found.weights)
    weights = rule.with_kernel_rows(new, new.layer.get_weights(), [kernel])
    new.layer.set_weights(rule.shifted(new, weights, bias - rows[1][1]))
