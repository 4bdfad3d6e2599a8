"""Which method predicts the outcome under unseen masks best, at equal cost?

The shipped MLP and CNN, their estimation split, outcomes loss and accuracy. Every method may spend
100,000 row-equivalents (masked forward passes of one example; a backward pass counts as two) on one
outcome, and predicts how much an unseen mask changes the outcome as the sum of its coefficients over
the dropped elements. All are judged on the same fresh masks of another seed: 150 at each of half the
design's drop rate, that rate and twice it, each measured on 500 random examples, by the Pearson
correlation of predicted and measured mean changes; ``ceiling`` is what a perfect prediction would
reach, given the noise of the measured means.

The methods compared:

- assisted: gradient-assisted regression, a third of the rows, each with its gradient;
- gradient at dropout states: the same rows, their gradients alone;
- OLS, ridge: one mask a row, forward passes only;
- leave one out: each element dropped alone, on random examples of its own;
- gradient at the original model: of the outcome's surrogate with respect to the masks, over as many
  examples as the budget allows (all of them, where it allows more);
- ablation regression: one mask per pass over a fixed set of 1,000 examples, as published for component
  attribution, at drop rate 0.05 and at the design's; the mean change is regressed on the masks by
  ridge (generalized cross-validation) and lasso (five-fold cross-validation). Where a forward pass
  costs the same for one mask and for many, 100 masks are all that the budget buys.

Writes unseen.csv (one line a model, outcome, method, seed and rate), summary.csv (mean and SD over
seeds), unseen.png and settings.json.

Example: ``python experiments/unseen.py``; ``python experiments/unseen.py --quick --out unseen-quick``
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from _lib.arguments import new_parser
from _lib.models import Shipped, load_shipped
from _lib.results import save_settings
from sklearn.linear_model import LassoCV, RidgeCV

import dropreg as dr
from dropreg.data import Prediction
from dropreg.regression._fidelity import fidelity_table
from dropreg.sampling._unseen_masks import FidelityMasks

if TYPE_CHECKING:
    import tensorflow as tf

Array = npt.NDArray[np.float64]
OUTCOMES: tuple[dr.outcomes.Outcome, ...] = (dr.outcomes.Loss(), dr.outcomes.Accuracy())
NAMES = tuple(outcome.name for outcome in OUTCOMES)
EXAMPLES_PER_PASS = 1_000
PUBLISHED_RATE = 0.05
ROW_COST = 3  # of a row with its gradient
BATCH = 2_000
JUDGE_SEED = 1000


class Evaluator:
    """The masked network at masks of one's choice.

    Parameters
    ----------
    shipped : Shipped

    Attributes
    ----------
    n_examples, n_elements : int
    """

    def __init__(self, shipped: Shipped) -> None:
        import tensorflow as tf

        from dropreg.network import MaskedNetwork

        self._network = MaskedNetwork(shipped.model, shipped.elements)
        self._x, self._y = shipped.data
        self.n_examples, self.n_elements = len(self._y), len(shipped.elements)
        signature = [
            tf.TensorSpec([None, *self._x.shape[1:]], tf.float32),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None, self.n_elements], tf.float32),
        ]
        self._measure = tf.function(self._measure_batch, input_signature=signature)
        self._slopes = tf.function(self._slopes_batch, input_signature=signature)
        everything = np.ones(self.n_elements, dtype=bool)
        self._whole = self._measured(np.arange(self.n_examples), lambda start, stop: everything)

    def _predict(self, x: "tf.Tensor", masks: "tf.Tensor") -> Prediction:
        return Prediction(self._network([x], masks), "classes", from_logits=True)

    def _measure_batch(self, x: "tf.Tensor", y: "tf.Tensor", masks: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        here = self._predict(x, masks)
        return tf.stack([outcome.measure(here, y, here) for outcome in OUTCOMES], axis=1)

    def _slopes_batch(self, x: "tf.Tensor", y: "tf.Tensor", masks: "tf.Tensor") -> "list[tf.Tensor]":
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            tape.watch(masks)
            here = self._predict(x, masks)
            surrogates = [outcome.surrogate(here, y, here) for outcome in OUTCOMES]
        slopes: list[Any] = [tape.gradient(surrogate, masks) for surrogate in surrogates]
        return [tf.reduce_sum(slope, axis=0) for slope in slopes]

    def _batches(
        self, examples: npt.NDArray[np.int64], kept: Callable[[int, int], npt.NDArray[np.bool_]]
    ) -> Iterator[tuple[npt.NDArray[Any], ...]]:
        for start in range(0, len(examples), BATCH):
            chosen = examples[start : start + BATCH]
            masks = np.broadcast_to(kept(start, start + len(chosen)), (len(chosen), self.n_elements))
            yield self._x[chosen], self._y[chosen], masks.astype(np.float32)

    def _measured(self, examples: npt.NDArray[np.int64], kept: Callable[[int, int], npt.NDArray[np.bool_]]) -> Array:
        parts = [np.asarray(self._measure(*batch)) for batch in self._batches(examples, kept)]
        return np.concatenate(parts).astype(np.float64)

    def mean_changes(self, examples: npt.NDArray[np.int64], dropped: npt.NDArray[np.bool_]) -> Array:
        """Mean change of each outcome under each mask.

        Parameters
        ----------
        examples : ndarray of int, shape (n_masks, n)
            Examples that each mask runs on.
        dropped : ndarray of bool, shape (n_masks, n_elements)

        Returns
        -------
        ndarray, shape (n_masks, n_outcomes)
        """
        n_masks, n = examples.shape
        rows = examples.reshape(-1)
        measured = self._measured(rows, lambda start, stop: ~dropped[np.arange(start, stop) // n])
        return (measured - self._whole[rows]).reshape(n_masks, n, -1).mean(axis=1)

    def mean_slopes(self, examples: npt.NDArray[np.int64]) -> Array:
        """Mean gradient of each outcome's surrogate at the original model, shape (n_elements, n_outcomes)."""
        everything = np.ones(self.n_elements, dtype=bool)
        total = np.zeros((len(OUTCOMES), self.n_elements))
        for batch in self._batches(examples, lambda start, stop: everything):
            total += np.stack([np.asarray(slope) for slope in self._slopes(*batch)])
        return total.T / len(examples)


def changes_of(table: dr.ImpactTable) -> Array:
    """Predicted changes of the outcome from impacts."""
    outcome = OUTCOMES[NAMES.index(table.outcome)]
    return -table.impact if outcome.greater_is_better else table.impact


def from_records(shipped: Shipped, budget: int, rate: float, seed: int) -> dict[str, Array]:
    """Coefficients (n_elements, n_outcomes) of what dropreg estimates from one mask a row.

    Both outcomes share a record: each outcome's numbers are those of a record of its own.
    """
    case = (shipped.model, shipped.data, shipped.elements)

    def sampled(rows: int, gradients: bool) -> dr.Record:
        sampling = dr.Sampling(design=dr.designs.Bernoulli(rate), gradients=gradients, flips=0, fidelity=None)
        return dr.sample(*case, rows=rows, outcomes=OUTCOMES, sampling=sampling, seed=seed, progress=False)

    both, forward = sampled(budget // ROW_COST, gradients=True), sampled(budget, gradients=False)
    methods: list[tuple[str, dr.Record, Any]] = [
        ("assisted", both, "assisted"),
        ("gradient at dropout states", both, "gradient"),
        ("OLS", forward, "ols"),
        ("ridge", forward, "ridge"),
    ]
    return {
        method: np.stack([changes_of(dr.regress(record, outcome=name, estimator=estimator)) for name in NAMES], axis=1)
        for method, record, estimator in methods
    }


def leave_one_out(evaluator: Evaluator, budget: int, rng: np.random.Generator) -> Array:
    """Mean change with each element dropped alone, shape (n_elements, n_outcomes)."""
    n = min(budget // evaluator.n_elements, evaluator.n_examples)
    examples = np.stack([rng.choice(evaluator.n_examples, n, replace=False) for _ in range(evaluator.n_elements)])
    return evaluator.mean_changes(examples, np.eye(evaluator.n_elements, dtype=bool))


def gradient_at_whole(evaluator: Evaluator, budget: int, rng: np.random.Generator) -> Array:
    """Minus the mean gradient with respect to the masks, shape (n_elements, n_outcomes)."""
    n = min(budget // ROW_COST, evaluator.n_examples)
    return -evaluator.mean_slopes(rng.choice(evaluator.n_examples, n, replace=False))


def ablation_regression(evaluator: Evaluator, budget: int, rate: float, rng: np.random.Generator) -> dict[str, Array]:
    """Coefficients (n_elements, n_outcomes) from one mask per pass over a fixed set, by ridge and by lasso."""
    n_masks = budget // EXAMPLES_PER_PASS
    dropped = rng.random((n_masks, evaluator.n_elements)) < rate
    fixed = rng.choice(evaluator.n_examples, EXAMPLES_PER_PASS, replace=False)
    effects = evaluator.mean_changes(np.broadcast_to(fixed, (n_masks, len(fixed))), dropped)
    x = dropped.astype(np.float64)

    def coefficients(estimator: Any) -> Array:
        return np.stack([np.asarray(estimator.fit(x, y).coef_, dtype=np.float64) for y in effects.T], axis=1)

    name = f"ablation regression, rate {rate:g}"
    return {
        f"{name}, ridge": coefficients(RidgeCV(alphas=np.logspace(-3, 5, 49))),
        f"{name}, lasso": coefficients(LassoCV(cv=5, eps=1e-2, max_iter=20_000)),
    }


def all_methods(shipped: Shipped, evaluator: Evaluator, budget: int, rate: float, seed: int) -> dict[str, Array]:
    """Coefficients (n_elements, n_outcomes) by method."""
    rng = np.random.default_rng(seed)
    return {
        **from_records(shipped, budget, rate, seed),
        "leave one out": leave_one_out(evaluator, budget, rng),
        "gradient at the original model": gradient_at_whole(evaluator, budget, rng),
        **ablation_regression(evaluator, budget, PUBLISHED_RATE, rng),
        **ablation_regression(evaluator, budget, rate, rng),
    }


def unseen_masks(shipped: Shipped, rate: float, masks: int, examples: int) -> FidelityMasks:
    """The masks that all methods are judged on."""
    record = dr.sample(
        *(shipped.model, shipped.data, shipped.elements),
        rows=1,
        outcomes=OUTCOMES,
        sampling=dr.Sampling(
            design=dr.designs.Bernoulli(rate),
            gradients=False,
            fidelity=dr.designs.Fidelity(masks=masks, examples=examples),
        ),
        seed=JUDGE_SEED,
        progress=False,
    )
    assert record.fidelity_masks is not None
    return record.fidelity_masks


def judge(unseen: FidelityMasks, coefficients: Array) -> pd.DataFrame:
    """One line for each outcome and rate."""
    frames = [
        fidelity_table(unseen, column, coefficients[:, column], 0.0).assign(outcome=name)
        for column, name in enumerate(NAMES)
    ]
    return pd.concat(frames)[["outcome", "rate", "correlation", "ceiling"]]


def run_model(name: str, arguments: argparse.Namespace) -> pd.DataFrame:
    """All methods and seeds on one model."""
    shipped = load_shipped(name)
    evaluator = Evaluator(shipped)
    unseen = unseen_masks(shipped, arguments.rate, arguments.masks, arguments.examples)
    frames = []
    for seed in arguments.seeds:
        start = time.perf_counter()
        for method, coefficients in all_methods(shipped, evaluator, arguments.budget, arguments.rate, seed).items():
            frames.append(judge(unseen, coefficients).assign(model=name, method=method, seed=seed))
        print(f"{name}, {evaluator.n_elements} elements, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    columns = ["model", "outcome", "method", "seed", "rate", "correlation", "ceiling"]
    return pd.concat(frames, ignore_index=True)[columns]


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over the seeds with a correlation: a lasso that drops all coefficients has none."""
    groups = runs.groupby(["model", "outcome", "method", "rate"], sort=False)
    return groups.agg(
        seeds=("correlation", "count"),
        correlation_mean=("correlation", "mean"),
        correlation_sd=("correlation", "std"),
        ceiling=("ceiling", "first"),
    ).reset_index()


def draw(summary: pd.DataFrame, path: Path) -> None:
    """Correlation against the rate of the unseen masks, one panel a model and outcome."""
    from matplotlib.figure import Figure

    models, methods = summary["model"].unique(), summary["method"].unique()
    figure = Figure(figsize=(11, 4 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), len(NAMES), squeeze=False)
    for row, model in enumerate(models):
        for column, outcome in enumerate(NAMES):
            axes = panels[row, column]
            here = summary[(summary["model"] == model) & (summary["outcome"] == outcome)]
            for number, method in enumerate(methods):
                lines = here[here["method"] == method]
                axes.errorbar(
                    *(lines["rate"], lines["correlation_mean"], lines["correlation_sd"].fillna(0.0)),
                    marker="osD^vP<>Xh"[number % 10],
                    color=f"C{number}",
                    markersize=4,
                    capsize=2,
                    label=method,
                )
            ceiling = here.drop_duplicates("rate")
            axes.plot(ceiling["rate"], ceiling["ceiling"], "k--", linewidth=0.8, label="noise ceiling")
            axes.set_title(f"{model}, {outcome}", fontsize="medium")
            axes.set_xlabel("drop rate of the unseen masks")
            axes.set_ylabel("correlation, predicted and measured")
            axes.grid(alpha=0.3)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=130)


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, "unseen")
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn"], help="default: mlp cnn")
    parser.add_argument("--budget", type=int, default=100_000, help="row-equivalents (default: 100,000)")
    parser.add_argument("--rate", type=float, default=0.3, help="drop rate of the design (default: 0.3)")
    parser.add_argument("--masks", type=int, default=150, help="unseen masks at each rate (default: 150)")
    parser.add_argument("--examples", type=int, default=500, help="examples of each (default: 500)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.models, arguments.seeds, arguments.budget = arguments.models[:1], arguments.seeds[:1], 20_000
        arguments.masks, arguments.examples = 30, 100
    if JUDGE_SEED in arguments.seeds:
        parser.error(f"--seeds must not contain {JUDGE_SEED}, the seed of the unseen masks.")
    if arguments.budget < 10 * EXAMPLES_PER_PASS:
        parser.error(f"--budget must be at least {10 * EXAMPLES_PER_PASS:,}, received {arguments.budget}.")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = pd.concat([run_model(name, arguments) for name in arguments.models], ignore_index=True)
    summary = summarize(runs)
    runs.round(5).to_csv(arguments.out / "unseen.csv", index=False)
    summary.round(4).to_csv(arguments.out / "summary.csv", index=False)
    draw(summary, arguments.out / "unseen.png")
    save_settings(arguments.out, arguments, judge_seed=JUDGE_SEED, examples_per_pass=EXAMPLES_PER_PASS)
    print(summary.to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    sys.exit(main())
