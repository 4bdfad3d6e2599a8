"""Pruning in small steps: annealed dropout regression."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from .baselines.probe import Probe, ask, non_differentiable
from .designs import examples_of_rows, random_words

if TYPE_CHECKING:
    import keras

Array = npt.NDArray[np.float64]
LEAST, MOST = 0.01, 0.99
_STREAM = 2


@dataclass(frozen=True)
class Annealing:
    learning_rate: float = 0.3
    ramp: float = 0.5
    sharpness: float = 1.0
    averaging: float = 0.0
    spread: float = 0.0
    mean: float = 1.0
    clip: float = 4.0


def keep_probabilities(theta: Array, fraction: float, sharpness: float = 1.0) -> Array:
    """Keep-probabilities with a given mean number dropped."""
    scaled = sharpness * theta
    low, high = float(scaled.min()) - 20.0, float(scaled.max()) + 20.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if expit(middle - scaled).mean() < fraction:
            low = middle
        else:
            high = middle
    return np.clip(expit(scaled - middle), LEAST, MOST)


def draw(seed: int, number: int, n_masks: int, p: Array) -> npt.NDArray[np.bool_]:
    words = random_words(seed, number, _STREAM, n_masks * len(p)).reshape(n_masks, len(p))
    return words >= np.clip(np.round((1.0 - p) * 2.0**32), 1, 2**32 - 1).astype(np.uint32)


def run(model, data, elements, *, fractions, rounds, rows_per_round, outcome="divergence", gradients=True, how=Annealing(), seed=0, group=1, network=None, theta=None, task=None, hook=None):
    import tensorflow as tf

    question = ask(model, data, elements, outcome=outcome, task=task, kept=None, seed=seed)
    probe = Probe(question, network=None if network is None else network(question))
    n = len(elements)
    sign = question.sign
    spec = tf.TensorSpec([None, n], tf.float32)

    def body(bundle, masks):
        with tf.GradientTape() as tape:
            tape.watch(masks)
            value = probe.surrogate(probe.predict(bundle, masks), bundle)
        g = sign * tape.gradient(value, masks) / (tf.cast(tf.shape(value)[0] / tf.shape(masks)[0], tf.float32))
        d = 1.0 - masks
        return tf.stack([tf.reduce_sum(v, 0) for v in (g * masks, g * d, masks, d, g * g)]), tf.reduce_mean(value)

    def values(bundle, masks):
        return sign * probe.value(bundle, masks)

    step = probe.function(body if gradients else values, spec)
    theta = np.zeros(n) if theta is None else theta.copy()
    alive = np.ones(n, bool)
    results, number, before = [], 0, 0.0
    for fraction in fractions:
        kept_sum = np.zeros(n)
        for t in range(rounds):
            now = before + (fraction - before) * min(1.0, (t + 1) / (how.ramp * rounds))
            late = max(0.0, (t + 1 - how.ramp * rounds) / ((1 - how.ramp) * rounds))
            sharp = 1.0 + (how.sharpness - 1.0) * late
            share = 1.0 - (1.0 - now) * n / alive.sum()
            p = keep_probabilities(theta[alive], share, sharp)
            masks = np.zeros((rows_per_round // group, n), bool)
            masks[:, alive] = draw(seed, number, len(masks), p)
            order = examples_of_rows(seed, number * rows_per_round, rows_per_round, len(probe))
            size = max(probe.batch_size // group, 1)
            total, ys = 0.0, []
            for s in range(0, len(masks), size):
                m = tf.constant(masks[s : s + size], tf.float32)
                out = step(probe.bundle(order[s * group : (s + size) * group]), m)
                if gradients:
                    total = total + out[0].numpy().astype(np.float64)
                else:
                    ys.append(out.numpy())
            if gradients:
                gk, gd, nk, nd, gg = total
                mk, md = gk / np.maximum(nk, 1), gd / np.maximum(nd, 1)
                mk, md = np.where(nk > 0, mk, md), np.where(nd > 0, md, mk)
                u = -(mk + md) / 2
                sd = np.sqrt(gg / len(masks))
                a = u[alive] - u[alive].mean()
                v = how.mean * a / rms(a)
                if how.spread:
                    b = sd[alive] - sd[alive].mean()
                    v = v + how.spread * b / rms(b)
                    v = v
            else:
                y = np.concatenate(ys).astype(np.float64)
                x = masks[:, alive] - p
                y = y - y.mean()
                gram = x.T @ x
                beta = np.linalg.solve(gram + 1e-2 * np.diag(np.diag(gram)), x.T @ y)
                a = -beta
                v = a - a.mean()
                v = v / rms(v)
            v = v - v.mean()
            v = v / rms(v)
            theta[alive] += how.learning_rate * np.clip(v, -how.clip, how.clip)
            number += 1
            if t >= rounds * (1 - how.averaging):
                kept_sum[alive] += theta[alive]
        score = kept_sum if how.averaging else theta
        score = np.where(alive, score, -np.inf)
        keep = n - round(fraction * n)
        kept = np.zeros(n, bool)
        kept[np.argsort(-score, kind="stable")[:keep]] = True
        results.append(kept)
        alive = kept
        before = fraction
    return results


def rms(v):
    return float(np.sqrt(np.mean(np.square(v)))) + 1e-30
