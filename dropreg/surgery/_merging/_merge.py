"""Making up for what is removed: layers that read it learn to do with what stays.

A layer reads channels x through the rows W of its kernel; afterwards it reads x', the channels that stay, as the
smaller network computes them. `LeastSquares` gives it the rows V that minimise

    E |(x - Ex) W - (x' - Ex') V|^2 + ridge |V - P W|^2

where P W are the rows that deletion leaves, and its bias takes the change of the mean. Convolutions mix channels:
the same matrix at every tap. Layers are treated in order, each against the activations of the network that is
smaller already, so a layer also makes up for errors before it; up to 1 GiB of what later layers read is kept
meanwhile. A recurrent layer also reads its own states, by another kernel: x are then the states of the whole network
and x' those that stay, so that errors are not fed back while it is fitted (a GRU with ``reset_after=False``, which
multiplies states before it mixes them, is left as deletion leaves it). An attention layer reads what reaches its
query, key and value projections (and its gate), and its heads by the output projection: all are fitted in turn,
where heads go as well as where what the layer reads has changed. Neuron merging [1]_ mixes by the similarity of
incoming weights instead; reconstructing what the next layer reads is ThiNet's view [2]_.

References
----------
.. [1] Kim, Kim, Kim, Lim, Sim (2020), "Neuron Merging: Compensating for Pruned Neurons", NeurIPS, section 3.
.. [2] Luo, Wu, Lin (2017), "ThiNet: A Filter Level Pruning Method", ICCV, section 3.2.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import log_softmax

from ..._utils import Array
from ...errors import DataError
from ...graph import Call
from ...layers import Carry, LinearReader, readout, rule_for
from .._rebuild import Rebuilt
from .._zeros import HoldZeros
from ._fit_layer import mix
from ._merged_layer import Patient
from ._ridge import fit_predictions
from ._side_by_side import Twins
from ._strategies import RIDGES, LeastSquares

PENALTIES = (1e-2, 1e-3, 1e-4, 1e-5)
"""On squared changes of the last layer's kernel for standardized activations, in nats."""
_MOST_ROWS = 10_000
"""Positions of outputs that the last layer is fitted to."""


def merge_into(
    rebuilt: Rebuilt, inputs: Sequence[npt.NDArray[Any]], strategy: LeastSquares, *, classes: bool
) -> pd.DataFrame:
    """Change the weights of the new model so that its layers make up for what is removed.

    Parameters
    ----------
    rebuilt : Rebuilt
    inputs : sequence of ndarray
        Examples, one array for each input of the network.
    strategy : LeastSquares
    classes : bool
        Whether the network tells classes apart, so that outputs which are no probabilities are their scores.

    Returns
    -------
    DataFrame
        One row a layer that was merged into, or a projection inside it, in order: layer, ridge (the largest over its
        groups), unexplained (squared error of what it reads, on held-out examples, as a fraction of that of deletion
        with the mean made up for).

    Raises
    ------
    DataError
        If there is a single example to merge with, or activations are not finite.
    """
    examples = [array[: strategy.most_examples] for array in inputs]
    if len(examples[0]) < 2:
        raise DataError(
            "`data` must hold at least two examples to merge by least squares, one of them to be held out, received "
            "one: pass more, or merge='none'."
        )
    twins = Twins(rebuilt, examples, strategy.held_out, strategy.batch_size)
    plan = rebuilt.plan
    altered = set(plan.aliases)
    done: set[int] = set()
    rows = []
    last = None
    for index, (old, new) in enumerate(rebuilt.pairs):
        rule = rule_for(old.layer)
        losing = not all(plan.kept[slot].all() for slot in old.inputs)
        arriving = bool(altered.intersection(old.inputs))
        patient = Patient(rebuilt, twins, index)
        forgetting = not all(stay.all() for stay in patient.states_kept)
        headless = id(old.layer) in plan.heads
        if (losing or arriving or forgetting or headless) and id(old.layer) not in done:
            done.add(id(old.layer))
            twins.settle(index)
            if isinstance(rule, LinearReader):
                last = patient
                rows += [_merge_reader(patient, rule, strategy)] if losing or arriving else []
                rows += _merge_states(patient, rule, strategy) if forgetting else []
            elif rule.matches_moments and arriving:
                _match_moments(patient)
            elif rule.projections(old.layer) and rule.blocked(old) is None:
                rows += _merge_inside(patient, strategy)
        inside = headless or len(old.inputs) != len(new.inputs) or forgetting
        if arriving or inside or (losing and not isinstance(rule, Carry)):
            altered.update(old.outputs)
    if last is not None and strategy.predictions:
        _match_predictions(last, classes=classes)
    return pd.DataFrame(rows, columns=["layer", "ridge", "unexplained"])


def _merge_reader(patient: Patient, rule: LinearReader, strategy: LeastSquares) -> dict[str, Any]:
    """Mix what the layer of a call reads, and shift its biases."""
    old, new, kept = patient.old, patient.new, patient.rebuilt.plan.kept
    whole = rule.cut(old, [np.ones_like(kept[slot]) for slot in old.inputs], [kept[slot] for slot in old.outputs])
    row = {"layer": old.name, "ridge": np.inf, "unexplained": 1.0}
    rows = None if _is_constrained(old.layer, "kernel") else rule.kernel_rows(old, whole.weights)
    shifts = _can_shift(rule, old)
    if rows is not None:
        centre = shifts or _feeds_matched(patient)
        mixed = mix(patient, patient.read, rows, strategy, centre=centre)
        new.layer.set_weights(rule.with_kernel_rows(new, new.layer.get_weights(), mixed.rows))
        row |= mixed.row
    if shifts:
        before, after = patient.twins.mean_maps(patient.slots)
        shift = np.mean(
            [
                _mean_response(rule, old, whole.config, whole.weights, b)
                - _mean_response(rule, new, new.layer.get_config(), new.layer.get_weights(), a)
                for b, a in zip(before, after, strict=True)
            ],
            axis=0,
        )
        new.layer.set_weights(rule.shifted(new, new.layer.get_weights(), shift))
    return row


def _merge_states(patient: Patient, rule: LinearReader, strategy: LeastSquares) -> list[dict[str, Any]]:
    """The same for what a layer reads of its own states, unless its outputs then tell less of those before.

    Errors are fed back, and can do harm where few states are left.
    """
    old, new = patient.old, patient.new
    mixed = []
    if _is_constrained(old.layer, "recurrent_kernel"):
        return []
    can_shift = _can_shift(rule, old)
    for read, kernel in zip(patient.states(), rule.state_rows(old, old.layer.get_weights()), strict=False):
        columns = np.tile(read.kept, kernel.shape[1] // len(read.kept))  # gates by units
        mixed.append(mix(patient, read, [kernel[:, columns]], strategy, centre=can_shift))
    if not mixed:
        return []
    row: dict[str, Any] = {"layer": f"{old.name} (state)"}
    deleted, without = new.layer.get_weights(), patient.unexplained(RIDGES)
    rows, shifts = [m.rows[0] for m in mixed], [m.shifts[0] * can_shift for m in mixed]
    new.layer.set_weights(rule.with_state_rows(new, deleted, rows, shifts))
    if patient.unexplained(RIDGES) >= without:
        new.layer.set_weights(deleted)
        return [{**row, "ridge": np.inf, "unexplained": 1.0} for _ in mixed]
    return [{**row, **m.row} for m in mixed]


def _merge_inside(patient: Patient, strategy: LeastSquares) -> list[dict[str, Any]]:
    """The same for the projections inside a layer, one after the other."""
    rows = []
    befores, afters = (patient.rule.projections(call.layer) for call in (patient.old, patient.new))
    for part, after in afters.items():
        before, read = befores[part], patient.inside(part)
        if _is_constrained(after.layer, "kernel"):
            continue
        whole = after.kernel if read.kept.all() else before.kernel  # heads that go take columns, and are read as rows
        can_shift = after.layer.bias is not None and not _is_constrained(after.layer, "bias")
        mixed = mix(patient, read, [whole], strategy, centre=can_shift)
        after.learn(mixed.rows[0], mixed.shifts[0] * can_shift)
        rows.append({"layer": f"{patient.old.name} ({part})", **mixed.row})
    return rows


def _is_constrained(layer: Any, name: str) -> bool:
    """Whether weights of a name are bound to something, such as positive values, which merging would break."""
    bound = [v for v in layer.weights if v.constraint is not None and not isinstance(v.constraint, HoldZeros)]
    names = [name, f"depthwise_{name}", f"pointwise_{name}"]
    return any(variable.name in names for variable in bound)


def _can_shift(rule: LinearReader, call: Call) -> bool:
    """Whether a layer has biases that may take up what others no longer give."""
    return rule.has_bias(call) and not _is_constrained(call.layer, "bias")


def _feeds_matched(patient: Patient) -> bool:
    """Whether all that reads the layer's output has its statistics matched, which takes care of means."""
    written = set(patient.old.outputs)
    readers = [reader for reader, _ in patient.rebuilt.pairs if written.intersection(reader.inputs)]
    return bool(readers) and all(rule_for(reader.layer).matches_moments for reader in readers)


def _mean_response(
    rule: LinearReader, call: Call, config: dict[str, Any], weights: list[Array], mean_map: Array
) -> npt.NDArray[np.float64]:
    """What a layer computes before its activation for the mean of its inputs, averaged over positions."""
    response = rule.respond(call, config, weights, mean_map[np.newaxis])
    return response.reshape(-1, response.shape[-1]).mean(axis=0)


def _match_moments(patient: Patient) -> None:
    """Set the statistics of a normalization so that its output keeps mean and variance."""
    new, kept = patient.new, patient.read.kept
    rule = rule_for(patient.old.layer)
    before, after = patient.twins.channel_moments(patient.slots)
    before = type(before)(before.mean[kept], before.variance[kept])
    new.layer.set_weights(rule.with_moments(new, new.layer.get_weights(), before, after))


def _match_predictions(patient: Patient, *, classes: bool) -> None:
    """Fit the last layer to the whole network's probabilities, if what it computes are their logarithms."""
    old, new, rule = patient.old, patient.new, patient.rule
    if any(_is_constrained(old.layer, name) for name in ("kernel", "bias")):
        return
    outputs, twins = patient.rebuilt.before.outputs, patient.twins
    rows = [readout(rule, call) for call in (old, new)]
    if len(outputs) != 1 or len(patient.slots) != 1 or rows[0] is None or rows[1] is None:
        return
    if len(patient.rebuilt.before.shapes[outputs[0]]) != len(old.input_shapes[0]):
        return
    found = twins.gather([outputs[0], old.inputs[0]], _MOST_ROWS)
    if found is None:
        return
    ((whole, _), (x_before, x_after)), held_out = found
    scores = x_before @ rows[0][0] + rows[0][1]
    log_p = log_softmax(scores, axis=1)
    if scores.shape != whole.shape or scores.shape[1] < 2:
        return
    shown = [np.exp(log_p), scores] if classes else [np.exp(log_p)]
    if not any(np.allclose(values, whole, rtol=1e-3, atol=1e-3) for values in shown):
        return
    kernel, bias = fit_predictions(x_after, log_p, held_out, rows[1], PENALTIES)
    weights = rule.with_kernel_rows(new, new.layer.get_weights(), [kernel])
    new.layer.set_weights(rule.shifted(new, weights, bias - rows[1][1]))
