"""Do 95 % intervals cover, and is the false discovery rate controlled?

The network has one hidden layer whose activations are whole numbers, so the distribution of its
output under independent dropout, and with it every impact on loss and accuracy, follows exactly by
adding up distributions; half of the elements are planted to have no impact. Each replication is one
chunk of a long run: masks of its own, the same examples. For intervals about the population that
examples come from (cluster), every replication draws examples of its own from a large pool, and the
truth is that of the pool.

Example: ``python experiments/coverage.py --replications 500``
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.enumerable import examples, network, true_impacts
from _lib.results import save_settings
from scipy import stats
from statsmodels.stats.multitest import multipletests

import dropreg as dr
from dropreg.network import MaskedNetwork
from dropreg.regression import _assisted as assisted
from dropreg.regression import _compression as compression
from dropreg.regression import _ols as regression
from dropreg.regression import _penalized as shrinkage

RATE = 0.3
CASES = {"few": (10, 2_000), "many": (120, 4_000)}
N_EXAMPLES = 40
POOL, DRAWN = 2_000, 100


def fits(record: dr.Record, column: int, outcome: str) -> Iterator[tuple[str, regression.Fit]]:
    """Every estimator that claims standard errors, on one chunk."""
    rows = compression.observations(record)
    design = compression.compress(rows)
    yield "OLS, HC1", regression.ols(design, rows, column, "HC1")
    yield "marginal", regression.marginal(rows, column, np.full(design.n_elements, RATE))
    yield "ridge, posterior", shrinkage.ridge(design, column, "evidence")
    yield ("gradient-assisted, posterior", assisted.assisted(design, column, record.gradient_sums(outcome)))


def within_data(case: str, replications: int, seed: int) -> list[dict[str, Any]]:
    """Replications over masks, the examples fixed; Bernoulli and paired designs."""
    n_elements, rows = CASES[case]
    model = network(n_elements, seed)
    data = examples(model, N_EXAMPLES, seed)
    elements, truth = dr.elements(model), true_impacts(model, data, RATE)
    found = []
    for design in (dr.designs.Bernoulli(RATE), dr.designs.Paired(RATE)):
        for outcome in ("loss", "accuracy"):
            expected = truth[outcome]
            record = dr.sample(
                *(model, data, elements),
                rows=rows * replications,
                outcomes=outcome,
                sampling=dr.Sampling(design=design, flips=0, fidelity=None, batch_size=rows // 16),
                seed=seed,
                progress=False,
            )
            for k in range(replications):
                one = copy.copy(record)
                one._chunks = [k]
                if isinstance(design, dr.designs.Paired):
                    pairs = compression.observations(one, paired=True)
                    found_here = [("OLS, HC1, pairs", regression.ols(compression.compress(pairs), pairs, 0, "HC1"))]
                else:
                    found_here = list(fits(one, 0, outcome))
                sign = -1.0 if outcome == "accuracy" else 1.0
                found += [judge(case, outcome, mode, k, sign, fit, expected) for mode, fit in found_here]
    return found


def over_population(case: str, replications: int, seed: int) -> list[dict[str, Any]]:
    """Replications over masks and examples; the truth is that of the pool."""
    n_elements, rows = CASES[case]
    model = network(n_elements, seed)
    x, y = examples(model, POOL, seed)
    elements, truth = dr.elements(model), true_impacts(model, (x, y), RATE)
    masked, design, found = MaskedNetwork(model, elements), dr.designs.Bernoulli(RATE), []
    whole = np.asarray(model(x))[:, 0]

    def outcomes(output: np.ndarray, label: np.ndarray) -> np.ndarray:
        towards = np.where(label == 1, output, -output)
        return np.stack([np.logaddexp(0.0, -towards), (towards > 0).astype(float)], axis=1)

    for k in range(replications):
        rng = np.random.default_rng([seed, k])
        chosen = rng.integers(0, POOL, size=DRAWN)
        clusters = np.arange(rows) % DRAWN
        at = chosen[clusters]
        masks = design.draw(seed, k, rows, n_elements)
        effects = outcomes(np.asarray(masked([x[at]], masks))[:, 0], y[at]) - outcomes(whole[at], y[at])
        block = compression.RowBlock((~masks).astype(np.float32), effects, clusters)
        again = compression.Rows(lambda block=block: iter([block]))
        compressed = compression.compress(again)
        for column, outcome in enumerate(("loss", "accuracy")):
            for kind in ("cluster", "HC1"):
                fit = regression.ols(compressed, again, column, kind)
                sign = -1.0 if outcome == "accuracy" else 1.0
                mode = f"OLS, {kind}, population"
                found.append(judge(case, outcome, mode, k, sign, fit, truth[outcome]))
    return found


def judge(
    case: str, outcome: str, mode: str, replication: int, sign: float, fit: regression.Fit, truth: np.ndarray
) -> dict[str, Any]:
    """Coverage, discoveries and false discoveries of one replication."""
    error = sign * fit.coefficients - truth
    z = fit.coefficients / fit.std_errors
    rejected = multipletests(2 * stats.t.sf(np.abs(z), fit.df), alpha=0.05, method="fdr_bh")[0]
    half = stats.t.ppf(0.975, fit.df) * fit.std_errors
    null = truth == 0
    return {
        "elements": case,
        "outcome": outcome,
        "mode": mode,
        "replication": replication,
        "coverage": float((np.abs(error) <= half).mean()),
        "coverage_null": float((np.abs(error) <= half)[null].mean()),
        "fdp": float((rejected & null).sum() / max(rejected.sum(), 1)),
        "power": float(rejected[~null].mean()),
        "rms_error": float(np.sqrt((error**2).mean())),
        "mean_std_error": float(fit.std_errors.mean()),
    }


def main() -> None:
    parser = new_parser(__doc__, "coverage", seeds=(0,))
    parser.add_argument("--replications", type=int, default=500, help="default: 500")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="default: few many")
    arguments = parser.parse_args()
    replications = 40 if arguments.quick else arguments.replications
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for case in arguments.cases:
            found += within_data(case, replications, seed)
            found += over_population(case, replications, seed)
            frame = pd.DataFrame(found)
            values = ["coverage", "coverage_null", "fdp", "power", "rms_error", "mean_std_error"]
            groups = frame.groupby(["elements", "outcome", "mode"], sort=False)
            summary = groups[values].mean()
            summary["coverage_sd"] = groups["coverage"].std()
            summary["replications"] = groups.size()
            summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
            print(summary.to_string(), flush=True)
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
