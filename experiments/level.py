"""Is the default ahead of the best of the other methods on the transformer, level with it, or behind?

The best of many others is also the luckiest of them, so a comparison with it needs all of them at once. For each model
and fraction the selections in anneal.csv (all seeds, a trained network each; the first draw of random ones) are merged
as there, with the second half of the estimation images, and measured on the same 10,000 test images:

- accuracy, and the divergence from the original model in nats (mean Kullback-Leibler divergence of predictions);
- ahead, se: by how much the default ("--default") is better than this method, positive where it is, and the standard
  error of this mean over images of differences, each the mean over seeds. Trained networks are taken as they are: what
  is asked is whether these differ on other images of the same kind;
- p_behind: the probability that, were all methods equal, one of the others would be ahead of the default by as many
  standard errors as the one is that is ahead by most (one-sided, max-t by 20,000 draws of Gaussian multipliers over
  images, which keep the correlations between methods; Hothorn, Bretz, Westfall 2008, section 3). It is the same for all
  methods of a cell. Small: the default is behind.

Methods that merge in every step have no selection there: they are made anew. Writes level.csv, settings.json, and the
predictions on the test images to --outputs, which are not part of the repository and are not computed again.

Example: ``python experiments/level.py --models vit``
"""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import RESULTS, new_parser
from _lib.models import HALF, SHIPPED, divergences, load, predicted
from _lib.results import save_settings
from _lib.selections import FRACTIONS, IN_STEPS, METHODS, in_steps, unpacked

import dropreg as dr

DEFAULT = "annealed for merging"
WHOLE = "whole"
DRAWS = 20_000


def outputs(folder: Path, made: pd.DataFrame, key: tuple[str, int, str], fractions: list[float]) -> np.ndarray:
    """Logits on the test images of one method's networks, float32 (fractions, examples, classes)."""
    name, seed, method = key
    path = folder / f"{name}-{seed}-{method.replace(' ', '_').replace(',', '')}.npy"
    if path.exists():
        return np.load(path)
    model = load(name, seed)
    x, y = dr.datasets.fashion_mnist("estimation")
    test = dr.datasets.fashion_mnist("test")[0]
    if method == WHOLE:
        models: list[Any] = [model]
    elif method in IN_STEPS:
        models = [small for small, _ in in_steps(method, model, (x[:HALF], y[:HALF]), seed, fractions)]
    else:
        elements = dr.elements(model)
        rows = made[(made["model"] == name) & (made["seed"] == seed) & (made["method"] == method) & (made["draw"] == 0)]
        kept = rows.set_index("fraction").loc[fractions, "kept"]
        merging = x[HALF:], y[HALF:]
        models = [dr.remove(model, unpacked(str(digits), elements), data=merging).model for digits in kept]
    found = np.stack([predicted(model, test) for model in models])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(path, found)
    print(*key, flush=True)
    return found


def p_behind(leads: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Means, standard errors and the probability of `p_behind`, of leads (methods, examples)."""
    n = leads.shape[1]
    means = leads.mean(axis=1)
    errors = leads.std(axis=1, ddof=1) / np.sqrt(n)
    scaled = (leads - means[:, None]) / (errors[:, None] * n)
    rng = np.random.default_rng(seed)
    most = np.concatenate([(scaled @ rng.normal(size=(n, 1000))).max(axis=0) for _ in range(DRAWS // 1000)])
    return means, errors, float((most >= (-means / errors).max()).mean())


def cell(values: dict[str, np.ndarray], default: str, *, sign: int) -> pd.DataFrame:
    """One row for each method, of values (examples) that are better where `sign` times them is larger."""
    others = [method for method in values if method != default]
    leads = sign * np.stack([values[default] - values[method] for method in others])
    ahead, errors, p = p_behind(leads, seed=0)
    frame = pd.DataFrame({"method": others, "mean": [values[method].mean() for method in others]})
    frame["default"] = values[default].mean()
    return frame.assign(ahead=ahead, se=errors, p_behind=p)


def compare(name: str, seeds: list[int], methods: list[str], default: str, fractions: list[float], get: Any) -> Any:
    """All cells of one model; `get` has the logits of a seed and a method."""
    labels = dr.datasets.fashion_mnist("test")[1]
    whole = {seed: get(name, seed, WHOLE)[0] for seed in seeds}
    cells = []
    for at, fraction in enumerate(fractions):
        right: dict[str, np.ndarray] = {}
        apart: dict[str, np.ndarray] = {}
        for method in methods:
            logits = {seed: get(name, seed, method)[at] for seed in seeds}
            right[method] = np.mean([logits[s].argmax(axis=1) == labels for s in seeds], axis=0)
            apart[method] = np.mean([divergences(whole[s], logits[s]) for s in seeds], axis=0)
        for value, measured, sign in (("accuracy", right, 1), ("divergence", apart, -1)):
            found = cell(measured, default, sign=sign)
            found.insert(0, "value", value)
            found.insert(0, "fraction", fraction)
            cells.append(found)
    return pd.concat(cells).assign(model=name)


def main() -> None:
    parser = new_parser(__doc__, "level")
    parser.add_argument("--models", nargs="+", choices=SHIPPED, default=["vit"])
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, help="default: the default, and all that is not annealed"
    )
    parser.add_argument("--default", choices=METHODS, default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument(
        "--selections", type=Path, default=RESULTS / "anneal" / "anneal.csv", help="anneal.csv with the selections"
    )
    parser.add_argument("--outputs", type=Path, help="folder of the predictions (default: OUT/outputs)")
    arguments = parser.parse_args()
    folder = (arguments.outputs or arguments.out / "outputs") / ("quick" if arguments.quick else "whole")
    fractions = list(FRACTIONS[2:3] if arguments.quick else FRACTIONS)
    made = pd.read_csv(arguments.selections).dropna(subset="kept")
    there = set(made[["model", "seed", "method"]].itertuples(index=False, name=None))

    def get(*key: Any) -> np.ndarray:
        return outputs(folder, made, key, fractions)

    frames = []
    for name in arguments.models:
        others = [m for m in METHODS if "annealed" not in m and all((name, s, m) in there for s in arguments.seeds)]
        asked = arguments.methods or others
        methods = list(dict.fromkeys([arguments.default, *asked]))
        for seed, method in product(arguments.seeds, [WHOLE, *methods]):
            get(name, seed, method)
        frames.append(compare(name, arguments.seeds, methods, arguments.default, fractions, get))
    frame = pd.concat(frames).sort_values(["model", "value", "fraction", "ahead"], kind="stable")
    frame = frame[["model", "value", "fraction", "method", "mean", "default", "ahead", "se", "p_behind"]]
    arguments.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(arguments.out / "level.csv", index=False, float_format="%.5f")
    save_settings(arguments.out, arguments)
    nearest = frame.groupby(["model", "value", "fraction"], sort=False).head(2)
    print(nearest.to_string(index=False, float_format=lambda value: f"{value:.5f}"))


if __name__ == "__main__":
    main()
